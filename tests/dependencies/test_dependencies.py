"""The pinned versions have the digests of their files, and the lowest allowed ones refuse two attacks on clients."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from concurrent import futures
from pathlib import Path
from typing import Final

import grpc
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tests.dependencies import audit, floors, pin

PROJECT: Final = tomllib.loads((pin.ROOT / "pyproject.toml").read_text())["project"]
PINS: Final = pin.read_entries(pin.CONSTRAINTS.read_text())


def versions(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)[:3]))


def test_every_pin_has_hashes() -> None:
    text = pin.CONSTRAINTS.read_text()
    assert len(PINS) == len(re.findall(r"^[A-Za-z0-9]", text, re.MULTILINE)) > 150
    for name, (_, _, hashes) in PINS.items():
        assert hashes, name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes), name
    assert "http" not in text
    assert re.findall(r"^# section: (\w+)$", text, re.MULTILINE) == [*pin.SECTIONS, "torch"]


def test_every_requirement_is_pinned_in_its_range() -> None:
    """Otherwise `make pin` was not run after a change of pyproject.toml."""
    extras = PROJECT["optional-dependencies"]
    for requirement in [*PROJECT["dependencies"], *(each for some in extras.values() for each in some)]:
        name, floor = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?(?:[>=]=([0-9.]+))?", requirement).groups()  # type: ignore[union-attr]
        if not name.startswith("thetaprime"):
            assert versions(PINS[pin.normalize(name)][0]) >= versions(floor or "0"), requirement


@pytest.mark.skipif("floors" in sys.prefix, reason="the environment has other versions on purpose")
def test_every_installed_dependency_is_the_pinned_one() -> None:
    wanted, seen = ["thetaprime"], set()
    while wanted:
        name = wanted.pop()
        for requirement in importlib.metadata.requires(name) or ():
            found = pin.normalize(re.match(r"[A-Za-z0-9._-]+", requirement).group())  # type: ignore[union-attr]
            if ";" not in requirement and found not in seen:
                seen.add(found)
                wanted.append(found)
    for name in seen:
        installed = importlib.metadata.version(name).partition("+")[0]
        assert installed == PINS[name][0], f"{name}: run make test, which installs the versions of constraints.txt"


def test_a_changed_file_is_not_installed(tmp_path: Path) -> None:
    """pip itself refuses it, with the file that `make` gives it."""
    name = "thetaprime_test_package-1.0-py3-none-any.whl"
    (tmp_path / name).write_bytes(b"not what the hash says")
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(pin.format_entry("thetaprime-test-package", "1.0", "", ["sha256:" + "0" * 64]))
    command = (sys.executable, "-m", "pip", "download", "--require-hashes", "--no-deps", "--no-index")
    done = subprocess.run(
        [*command, "--find-links", str(tmp_path), "--dest", str(tmp_path / "got"), "--requirement", str(requirements)],
        capture_output=True,
        text=True,
        env={**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""},
    )
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr


def test_onnxruntime_reads_no_weights_outside_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client refuses such a file anyway. onnxruntime 1.24.2 reads it, and so do those before."""
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    output = helper.make_tensor_value_info("y", TensorProto.UINT8, [6])
    for location in (str(tmp_path / "secret"), "../secret"):
        weights = onnx.TensorProto(name="w", data_type=TensorProto.UINT8, dims=[6], data_location=TensorProto.EXTERNAL)
        entry = weights.external_data.add()
        entry.key, entry.value = "location", location
        graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [output], [weights])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
        with pytest.raises(Exception, match="External data path"):
            onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


_GZIP_CLIENT: Final = """
import grpc, sys

def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024

with grpc.insecure_channel(sys.argv[1], options=[("grpc.max_receive_message_length", 4 << 20)]) as channel:
    call = channel.unary_unary("/bomb/Get")
    call(b"small", timeout=30)
    before = peak()
    try:
        call(b"large", timeout=60)
    except grpc.RpcError as error:
        print(error.code().name, peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says the peak: run the tests there")
def test_grpcio_inflates_no_message_beyond_the_limit() -> None:
    """grpcio 1.83.0 inflates a message of 200 KB to all its 183 MiB before it refuses it, and so do those before."""

    class Bomb(grpc.GenericRpcHandler):  # type: ignore[type-arg]
        def service(self, _: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
            return grpc.unary_unary_rpc_method_handler(
                lambda request, _: bytes(183 << 20 if request == b"large" else 1),
            )

    server = grpc.server(
        futures.ThreadPoolExecutor(1),
        handlers=[Bomb()],
        compression=grpc.Compression.Gzip,
        options=[("grpc.max_send_message_length", -1)],
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        command = (sys.executable, "-c", _GZIP_CLIENT, f"127.0.0.1:{port}")
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    finally:
        server.stop(None).wait()
    code, mebibytes = done.stdout.split()
    assert code == "RESOURCE_EXHAUSTED"
    assert int(mebibytes) < 64


def test_the_lowest_versions_are_those_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    floors.main()
    lines = capsys.readouterr().out.split()
    assert {"grpcio==1.84", "onnxruntime==1.24.3"} < {*lines}
    assert {each.partition("==")[0] for each in lines} > {*floors.TOOLS}


@pytest.mark.parametrize(
    ("answers", "status", "says"),
    [
        ({"a": [], "b": []}, 0, "2 of 2 versions looked up, 0 with advisories"),
        ({"a": ["CVE-1"], "b": []}, 1, "a 1.0: CVE-1 (one)"),
        ({"a": ["CVE-1"], "b": None}, 1, "NOT AUDITED, no database was reached that knows them: b"),
        ({"a": [], "b": None}, 2, "NOT AUDITED, no database was reached that knows them: b"),
        (None, 2, "one: not reached: no route"),
    ],
)
def test_an_audit_says_what_it_could_not_look_up(
    answers: dict[str, list[str] | None] | None, status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def source(_: object) -> dict[str, list[str] | None]:
        if answers is None:
            raise ConnectionError("no route")
        return answers

    assert audit.audit({"a": "1.0", "b": "2.0"}, {"one": source}) == status
    assert says in capsys.readouterr().out


def test_an_audit_asks_the_next_source_for_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    asked = []

    def second(pins: object) -> dict[str, list[str] | None]:
        asked.append(pins)
        return {"b": []}

    assert audit.audit({"a": "1", "b": "2"}, {"one": lambda _: {"a": [], "b": None}, "two": second}) == 0
    assert asked == [{"b": "2"}]
    assert "2 of 2" in capsys.readouterr().out
