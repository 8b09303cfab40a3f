"""The page for authors of clients, and its test vectors, match the code."""

import re
from pathlib import Path
from typing import Final

import pytest

from thetaprime import models, server, wire
from thetaprime.server import ServerConfig
from thetaprime.server.rpc.gate import MESSAGE_BYTES
from thetaprime.server.sessions.rows import MAX_ID_LENGTH
from thetaprime.v1 import adaptation_service_pb2, meta_policy_service_pb2
from thetaprime.wire.payload import _MAX_AXES

from .vectors import PAGE, example, worked_example, written

# The constructors of refusals with a reason.
_REFUSALS: Final = re.compile(
    r"(Precondition|Quota|ReusedId|CorruptData|Unauthenticated|StoreFailed)Error\(|BehaviorDoubt\(|_error_info\("
)
_REASON: Final = re.compile(r'"([A-Z]+(?:_[A-Z]+)+)"')


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text()


@pytest.mark.parametrize("path", written(), ids=lambda path: path.name)
def test_the_generated_files_are_up_to_date(path: Path) -> None:
    assert path.read_text() == written()[path], f"{path.name} is out of date: run make vectors"


def test_the_worked_example_decodes_to_its_trajectory() -> None:
    shown = "".join(line.partition("  #")[0] for line in worked_example().partition("\n\n")[0].splitlines())
    (read,) = wire.unpack(bytes.fromhex(shown))
    wire.validate(read, wire.EnvironmentContract("example", (2,), wire.ActionKind.BOX, 1, (-1.0,), (1.0,), horizon=2))
    assert read.observations.tolist() == example().observations.tolist()
    assert (read.policy_id, read.terminated, read.truncated) == ("theta", False, True)


def test_every_call_is_on_the_page(page: str) -> None:
    services = [
        *adaptation_service_pb2.DESCRIPTOR.services_by_name.values(),
        *meta_policy_service_pb2.DESCRIPTOR.services_by_name.values(),
    ]
    named = set(re.findall(r"^\| `(\w+)` \| .+ \| .+ \| .+ \|$", page, re.MULTILINE))
    assert {method.name for service in services for method in service.methods} <= named


def test_every_reason_of_a_refusal_is_on_the_page(page: str) -> None:
    sources = [path for package in (server, models) for root in package.__path__ for path in Path(root).rglob("*.py")]
    refusing = [text for path in sources if _REFUSALS.search(text := path.read_text())]
    reasons = {reason for text in refusing for reason in _REASON.findall(text)}
    assert {"ROUND_MISMATCH", "OFF_POLICY", "TENANT_STEPS", "STORE_FULL", "TOKEN_MISSING"} <= reasons
    table = page.partition("| reason |")[2].partition("\n\n")[0]
    listed = {word for row in table.splitlines() for word in re.findall(r"`([A-Z_]+)`", row.split(" | ")[0])}
    assert listed == reasons


def test_the_limits_on_the_page_are_the_defaults(page: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", page, re.MULTILINE)
    assert len(rows) == 12
    for name, shown in rows:
        assert int(shown.replace(",", "")) == ServerConfig.model_fields[name].default, name
    for fixed in (wire.CHUNK_BYTES, MESSAGE_BYTES, MAX_ID_LENGTH, _MAX_AXES):
        assert re.search(rf"\b{fixed:,}\b", page.partition("Fixed: ")[2].partition("\n")[0]), fixed
