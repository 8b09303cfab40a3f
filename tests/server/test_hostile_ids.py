"""A name from a client never becomes a path, and an oversized message is never parsed."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
import pytest

from tests.support.server import every_rpc as rpc
from thetaprime import wire
from thetaprime.server import running_server
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import meta_policy_service_pb2 as meta_pb

if TYPE_CHECKING:
    from tests.support.server.service import Configure, Connect, Service

Collect = Callable[..., list[wire.Trajectory]]
MARK: Final = "hostile"
# Audit events of the file system. Python cannot remove an audit hook, so one hook is switched on and off.
_EVENTS: Final = ("open", "os.", "pathlib.", "glob.", "shutil.", "sqlite3.connect", "import")
_seen: list[str] = []
_watching = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event.startswith(_EVENTS):
        _seen.append(f"{event} {arguments!r}")


sys.addaudithook(_hook)


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """All paths that the process touches during the context."""
    global _watching
    _seen.clear()
    _watching = True
    try:
        yield _seen
    finally:
        _watching = False


IDS: Final = [
    f"../../{MARK}",
    f"../../../../../../tmp/{MARK}",
    f"/tmp/{MARK}",  # noqa: S108
    f"..\\..\\{MARK}",
    f"C:\\{MARK}",
    f"~/{MARK}",
    f"{MARK}\0",
    f"\0/{MARK}",
    f"%2e%2e%2f{MARK}",
    f"{MARK}\n\r\x1b[2J",
    f"file:///{MARK}",
    f"'; DROP TABLE sessions; -- {MARK}",
    f"\u202e\ufeff{MARK}\U0010ffff",
]


def calls(service: "Service", name: str, payload: bytes) -> Iterator[Callable[[], object]]:
    """One call for each text field of the contract, with the name in it."""
    created = service.create(request_id=name)
    session_id = created.session.session_id
    assert service.create(request_id=name) == created
    yield lambda: service.create(meta_policy=name)
    yield lambda: service.meta_stub.GetMetaPolicy(meta_pb.GetMetaPolicyRequest(name=name))
    for about in (name, session_id):
        yield lambda about=about: service.send(wire.iter_upload(about, name, 0, payload, 4, 32))  # type: ignore[misc]
        yield lambda about=about: service.adapt(about, 0, name)  # type: ignore[misc]
    yield lambda: service.get(name)
    yield lambda: service.stub.GetPolicy(service_pb.GetPolicyRequest(session_id=name))
    yield lambda: service.stub.CloseSession(service_pb.CloseSessionRequest(session_id=name))
    yield lambda: service.stub.ListSessions(service_pb.ListSessionsRequest(page_token=name))
    footer = service_pb.UploadFooter(trajectories=4, steps=32, sha256=name)
    stream = [*wire.iter_upload(session_id, "another", 0, payload, 4, 32)][:-1]
    yield lambda: service.send(iter([*stream, service_pb.UploadTrajectoriesRequest(footer=footer)]))


def tree(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", IDS, ids=ascii)
def test_no_name_becomes_a_path(configure: "Configure", connect: "Connect", collect: Collect, name: str) -> None:
    config = configure(row_bytes=0)
    with running_server(config) as address, connect(address) as service:
        payload = wire.pack(collect(service.create().policy))
        accepted = 0
        refused: set[grpc.StatusCode] = set()
        with watched() as seen:
            for call in calls(service, name, payload):
                try:
                    call()
                    accepted += 1
                except grpc.RpcError as error:
                    assert isinstance(error, grpc.Call)
                    refused.add(error.code())
    assert accepted == 1, "an upload may be called anything"
    assert refused == {
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.DATA_LOSS,
    }
    digest = wire.sha256_hex(payload)
    assert any(digest in event for event in seen), "the payload's own file was not seen: nothing would have been"
    assert not [event for event in seen if MARK in event]
    named = [path for path in tree(Path(config.store)) if not path.name.startswith("thetaprime.sqlite3")]
    assert named == [Path(config.store) / "blobs" / digest[:2] / digest]


IN_ONE_FIELD: Final[dict[str, Callable[["Service", str], object]]] = {
    **{name: call for name, call in rpc.ABOUT_A_SESSION.items() if name != "UploadTrajectories"},
    "CreateSession": lambda service, text: service.create(request_id=text),
    "UploadTrajectories": lambda service, text: service.send(
        iter([service_pb.UploadTrajectoriesRequest(chunk=service_pb.UploadChunk(data=text.encode()))])
    ),
    "ListSessions": lambda service, text: service.stub.ListSessions(service_pb.ListSessionsRequest(page_token=text)),
    "GetMetaPolicy": lambda service, text: service.meta_stub.GetMetaPolicy(meta_pb.GetMetaPolicyRequest(name=text)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_ONE_FIELD)
def test_a_hundred_megabytes_in_one_field_are_refused(service: "Service", name: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        IN_ONE_FIELD[name](service, "x" * 100_000_000)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert service.create().session.session_id


NO_MESSAGES: Final = [b"\x0a\x02\xff\xfe", b"\x0a\xff\xff\xff\xff\x0f", b"\xff" * 64]


@pytest.mark.parametrize("data", NO_MESSAGES, ids=repr)
@pytest.mark.parametrize("method", ["GetSession", "CreateSession", "UploadTrajectories"])
def test_bytes_that_do_not_parse_are_refused_and_other_calls_go_on(
    service: "Service", method: str, data: bytes
) -> None:
    channel: Any = service.channel
    path = f"/thetaprime.v1.AdaptationService/{method}"
    with service.refuses() as refusal:
        if method == "UploadTrajectories":
            channel.stream_unary(path)(iter([data]), timeout=60)
        else:
            channel.unary_unary(path)(data, timeout=60)
    assert (refusal.code, refusal.field) == (grpc.StatusCode.INVALID_ARGUMENT, "request")
    assert service.create().session.session_id
