"""An artifact's folder that attacks its reader is refused by the name of the file, before memory is taken."""

import os
import shutil
import socket
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch

from tests.support.artifacts import replace, reseal
from thetaprime.models import (
    ArtifactError,
    ArtifactLimits,
    BoxAction,
    DiscreteAction,
    EnvironmentContract,
    Policy,
    PolicySpec,
    find_meta_policies,
    load_meta_policy,
    parameters_to_bytes,
    scan_meta_policies,
)
from thetaprime.models.policy import parameter_shapes

NAMES: Final = ("manifest.json", "theta.safetensors", "policy.onnx", "reference.safetensors")
MEGABYTE: Final = 1 << 20


@pytest.fixture
def zoo(point_artifact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(point_artifact, tmp_path / "zoo"))


@pytest.fixture
def artifact(zoo: Path) -> Path:
    return zoo / "point-navigation" / "1"


def peak_of(call: Callable[[], object]) -> int:
    """The memory that Python and numpy took at once, in bytes. torch's is not in it."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("kind", "says"),
    [("fifo", "a FIFO"), ("socket", "a socket"), ("folder", "a folder"), ("zero", "outside"), ("dangling", "No such")],
)
def test_only_regular_files_are_read(
    artifact: Path, name: str, kind: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = artifact / name
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        match kind:
            case "fifo":
                os.mkfifo(path)
            case "socket":
                # An address of a socket has at most a hundred bytes.
                monkeypatch.chdir(artifact)
                listener.bind(name)
            case "folder":
                path.mkdir()
            case "zero":
                path.symlink_to("/dev/zero")
            case "dangling":
                path.symlink_to("nowhere")
        with pytest.raises(ArtifactError, match=says) as caught:
            load_meta_policy(artifact)
    assert caught.value.file == str(path)
    assert str(caught.value).count(name) == 1


def test_a_device_inside_the_zoo_is_not_opened(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (artifact / "policy.onnx").unlink()
    (artifact / "policy.onnx").symlink_to("/dev/zero")
    opened, names = os.open, []

    def record(name: Any, *arguments: Any, **more: Any) -> int:
        names.append(str(name))
        return opened(name, *arguments, **more)

    monkeypatch.setattr(os, "open", record)
    with pytest.raises(ArtifactError, match=r"policy\.onnx: cannot be read: a device; expected a regular file"):
        load_meta_policy(artifact, Path("/dev"))
    assert "zero" not in names


def test_links_inside_the_folder_are_followed(artifact: Path) -> None:
    """The layout of a mounted ConfigMap: files are links through a link that is replaced as a whole."""
    (artifact / "..1").mkdir()
    for path in [each for each in artifact.iterdir() if each.is_file()]:
        path.rename(artifact / "..1" / path.name)
        path.symlink_to(Path("..data") / path.name)
    (artifact / "..data").symlink_to("..1")
    assert load_meta_policy(artifact).label == "point-navigation@1"


def test_links_lead_to_the_zoo_and_no_further(artifact: Path, zoo: Path, tmp_path: Path) -> None:
    shutil.copytree(artifact, zoo / "shared" / "1")
    (artifact / "policy.onnx").unlink()
    (artifact / "policy.onnx").symlink_to("../../shared/1/policy.onnx")
    assert load_meta_policy(artifact, zoo).label == "point-navigation@1"
    with pytest.raises(ArtifactError, match=r"policy\.onnx: a link to .*, outside"):
        load_meta_policy(artifact)
    shutil.move(zoo / "shared" / "1" / "policy.onnx", tmp_path)
    (artifact / "policy.onnx").unlink()
    (artifact / "policy.onnx").symlink_to(tmp_path / "policy.onnx")
    with pytest.raises(ArtifactError, match=r"policy\.onnx: a link to .*, outside"):
        load_meta_policy(artifact, zoo)


def test_a_version_may_be_a_link_to_a_folder_elsewhere(artifact: Path, zoo: Path, tmp_path: Path) -> None:
    shutil.move(artifact, tmp_path / "release")
    artifact.symlink_to(tmp_path / "release")
    assert find_meta_policies(zoo) == [artifact]
    assert load_meta_policy(artifact, zoo).label == "point-navigation@1"


def test_a_file_that_becomes_a_link_is_not_followed(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process replaces the file when its path was resolved and its kind checked."""
    opened, path = os.open, artifact / "policy.onnx"

    def late(name: Any, *arguments: Any, **more: Any) -> int:
        if str(name).endswith("policy.onnx"):
            path.unlink()
            path.symlink_to("/dev/zero")
        return opened(name, *arguments, **more)

    monkeypatch.setattr(os, "open", late)
    with pytest.raises(ArtifactError, match=r"policy\.onnx: cannot be read: Too many levels of symbolic links"):
        load_meta_policy(artifact)


def test_a_file_that_becomes_a_fifo_does_not_hang(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, path = os.open, artifact / "policy.onnx"

    def late(name: Any, *arguments: Any, **more: Any) -> int:
        if str(name).endswith("policy.onnx"):
            path.unlink()
            os.mkfifo(path)
        return opened(name, *arguments, **more)

    monkeypatch.setattr(os, "open", late)
    with pytest.raises(ArtifactError, match=r"policy\.onnx: cannot be read: a FIFO"):
        load_meta_policy(artifact)


@pytest.mark.parametrize("name", ["README.md", "theta.safetensors"])
def test_a_file_that_grows_has_an_end(artifact: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    replace(artifact, "README.md", b"x" * 100)
    fdopen = os.fdopen

    def growing(descriptor: int, *arguments: Any) -> Any:
        file = fdopen(descriptor, *arguments)
        if os.path.samestat(os.fstat(descriptor), (artifact / name).stat()):
            read = file.read

            def grow(size: int) -> Any:
                with (artifact / name).open("ab") as writer:
                    writer.write(b"x" * 4096)
                return read(size)

            return _Wrapped(file, grow)
        return file

    monkeypatch.setattr(os, "fdopen", growing)
    with pytest.raises(ArtifactError, match=rf"{name}: changed while it was read: (\d+) bytes of (\d+)"):
        load_meta_policy(artifact)


class _Wrapped:
    def __init__(self, file: Any, read: Callable[[int], Any]) -> None:
        self._file, self.read = file, read

    def __enter__(self) -> "_Wrapped":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def test_a_large_file_is_refused_unread(artifact: Path) -> None:
    for name in NAMES:
        whole = (artifact / name).read_bytes()
        os.truncate(artifact / name, 1 << 40)

        def load() -> None:
            with pytest.raises(ArtifactError, match=r"1099511627776 bytes; expected at most"):
                load_meta_policy(artifact)

        assert peak_of(load) < MEGABYTE
        (artifact / name).write_bytes(whole)


def test_the_limits_can_be_changed(artifact: Path) -> None:
    load_meta_policy(artifact, limits=ArtifactLimits(file_bytes=MEGABYTE, total_bytes=MEGABYTE))
    with pytest.raises(ArtifactError, match=r"bytes; expected at most 2000"):
        load_meta_policy(artifact, limits=ArtifactLimits(file_bytes=2000))
    with pytest.raises(ArtifactError, match=r"with it the artifact has \d+ bytes; expected at most 4000"):
        load_meta_policy(artifact, limits=ArtifactLimits(total_bytes=4000))
    with pytest.raises(ArtifactError, match=r"policy\.hidden_sizes .* make 10604 parameters; expected at most 100"):
        load_meta_policy(artifact, limits=ArtifactLimits(parameters=100))


def test_large_extra_files_are_verified_in_parts(artifact: Path) -> None:
    replace(artifact, "curves.png", bytes(48 * MEGABYTE))
    assert peak_of(lambda: load_meta_policy(artifact)) < 8 * MEGABYTE


def square(raw: dict[str, Any]) -> None:
    raw["policy"]["hidden_sizes"] = [15_000, 15_000]


def wide(raw: dict[str, Any]) -> None:
    raw["environment"]["observation_shape"] = [2_000_000_000] * 3


def many_actions(raw: dict[str, Any]) -> None:
    raw["environment"]["action"] = {"kind": "discrete", "count": 2_000_000_000, "start": 0}


def deep(raw: dict[str, Any]) -> None:
    raw["policy"]["hidden_sizes"] = [1] * 10_000


def huge_context(raw: dict[str, Any]) -> None:
    raw["policy"]["context_size"] = 2_000_000_000


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (square, r"policy\.hidden_sizes and policy\.context_size make 2250\d+ parameters; expected at most 8388608"),
        (wide, r"observation_shape, policy\.hidden_sizes and action together have 8000\d+ units; expected at most"),
        (many_actions, r"together have 20000\d+ units"),
        (deep, r"policy\.hidden_sizes: .*at most 64"),
        (huge_context, r"make \d+ parameters"),
        (lambda raw: raw["environment"].update(horizon=10**30), "environment.horizon"),
        (lambda raw: raw.update(name="x" * 1000), "name: .*128"),
        (lambda raw: raw["files"].update({f"file{n}": "" for n in range(2000)}), "files: .*1000"),
        (lambda raw: raw["files"].update({"a\0b": ""}), "is not the plain name"),
        (lambda raw: raw["files"].update({"..": ""}), "is not the plain name"),
        (lambda raw: raw["files"].update({"..\\x": ""}), "is not the plain name"),
    ],
)
def test_declared_sizes_are_checked_before_there_is_memory_for_them(
    artifact: Path, change: Callable[[dict[str, Any]], object], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocated(*_: Any, **__: Any) -> None:
        pytest.fail("the network was made")

    monkeypatch.setattr("thetaprime.models.artifact.Policy", allocated)
    reseal(artifact, change)
    with pytest.raises(ArtifactError, match=rf"manifest\.json: .*{says}"):
        load_meta_policy(artifact)


@pytest.mark.parametrize("depth", [40, 100_000])
def test_a_deep_manifest_is_refused(artifact: Path, depth: int) -> None:
    (artifact / "manifest.json").write_bytes(b'{"schema_version": 1, "name": ' + b"[" * depth + b"]" * depth + b"}")
    with pytest.raises(ArtifactError, match=r"manifest\.json: nested too deeply; expected at most 32 levels"):
        load_meta_policy(artifact)


def test_a_long_header_is_refused(artifact: Path) -> None:
    replace(artifact, "theta.safetensors", (64 * MEGABYTE).to_bytes(8, "little") + b" " * 64 * MEGABYTE)
    with pytest.raises(ArtifactError, match=r"theta\.safetensors: a header of 67108864 bytes; expected at most"):
        load_meta_policy(artifact)


def test_many_names_are_not_repeated_in_the_error(artifact: Path) -> None:
    replace(artifact, "theta.safetensors", parameters_to_bytes({f"t{n}": torch.zeros(1) for n in range(9000)}))
    with pytest.raises(ArtifactError, match=r"theta\.safetensors: holds \['t0'") as caught:
        load_meta_policy(artifact)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "golden",
    [
        torch.zeros(5000, 2),
        torch.zeros(0, 2),
        torch.zeros(3, 5),
        torch.zeros(()),
        torch.zeros(3, 2, dtype=torch.float64),
        torch.full((3, 2), float("nan")),
    ],
)
def test_golden_observations_fit_the_policy(artifact: Path, golden: torch.Tensor) -> None:
    replace(artifact, "reference.safetensors", parameters_to_bytes({"golden_observations": golden}))
    with pytest.raises(ArtifactError, match=r"reference\.safetensors: golden_observations is"):
        load_meta_policy(artifact)


@pytest.mark.parametrize("name", ["²", "9" * 200, "-1", "1x", "１"])
def test_a_folder_that_is_no_version_is_not_found(zoo: Path, artifact: Path, name: str) -> None:
    shutil.copytree(artifact, artifact.parent / name)
    assert find_meta_policies(zoo) == [artifact]


def test_a_folder_with_too_many_entries_does_not_hide_the_others(
    zoo: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thetaprime.models.artifact_folders._MAX_ENTRIES", 3)
    (zoo / "many").mkdir()
    for version in range(5):
        (zoo / "many" / str(version)).mkdir()
    found, problems = scan_meta_policies(zoo)
    assert found == [artifact]
    assert [str(each) for each in problems] == [f"{zoo / 'many'}: more than 3 entries; none of them is used"]
    with pytest.raises(ArtifactError, match="more than 3 entries"):
        find_meta_policies(zoo)


@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize("action", [BoxAction(low=(-1.0, -2.0), high=(1.0, 2.0)), DiscreteAction(count=4)])
def test_the_shapes_are_those_of_new_parameters(action: Any, context: int) -> None:
    environment = EnvironmentContract(environment_id="test", observation_shape=(2, 3), action=action, horizon=3)
    spec = PolicySpec(hidden_sizes=(5, 7), context_size=context)
    made = {name: tuple(value.shape) for name, value in Policy(environment, spec).init(0).items()}
    assert list(parameter_shapes(environment, spec).items()) == list(made.items())


def test_a_refusal_leaves_no_descriptors(artifact: Path) -> None:
    (artifact / "policy.onnx").unlink()
    os.mkfifo(artifact / "policy.onnx")
    descriptors = Path("/proc/self/fd")
    before = len([*descriptors.iterdir()])
    for _ in range(10):
        with pytest.raises(ArtifactError):
            load_meta_policy(artifact)
    assert len([*descriptors.iterdir()]) == before
