"""A running server adds and withdraws meta-policies as its folders change, and never changes a served one."""

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import onnx
import pytest
import structlog
import torch

from thetaprime import models, wire
from thetaprime.models.parameters import parameters_to_bytes
from thetaprime.server.catalog.catalog import Catalog
from thetaprime.server.catalog.watcher import CatalogWatch
from thetaprime.server.errors import NotFoundError
from thetaprime.server.logging import configure_logging
from thetaprime.v1 import meta_policy_service_pb2 as meta_pb

if TYPE_CHECKING:
    from tests.support.server.service import Configure, Service, Start

Collect = Callable[..., list[wire.Trajectory]]
Write = Callable[..., models.MetaPolicy]
NAME = "point-navigation"


class Watched:
    """A zoo, its catalog and its watcher."""

    def __init__(self, zoo: Path) -> None:
        self.zoo = zoo
        self.catalog = Catalog.load([zoo])
        self.watch = CatalogWatch(self.catalog, [zoo])

    def scan(self) -> list[str]:
        with structlog.testing.capture_logs() as logs:
            self.watch.scan()
        return [entry["event"] for entry in logs]

    @property
    def versions(self) -> list[int]:
        return [entry.message.version for entry in self.catalog]

    def folder(self, version: int) -> Path:
        return self.zoo / NAME / str(version)


@pytest.fixture(autouse=True)
def _everything_is_logged() -> Iterator[None]:
    configure_logging()
    yield
    configure_logging(logging.WARNING)


@pytest.fixture
def watched(tmp_path: Path, write_point_artifact: Write) -> Watched:
    for version in (1, 2):
        write_point_artifact(tmp_path / "zoo", version, seed=version)
    return Watched(tmp_path / "zoo")


@pytest.fixture
def third(tmp_path: Path, write_point_artifact: Write) -> Path:
    """The folder of a version that is not in the zoo."""
    write_point_artifact(tmp_path / "new", 3, seed=3)
    return tmp_path / "new" / NAME / "3"


def test_a_scan_without_changes_does_nothing(watched: Watched) -> None:
    entries = list(watched.catalog)
    assert watched.scan() == []
    assert all(now is then for now, then in zip(watched.catalog, entries, strict=True))


def test_a_copied_version_is_served(watched: Watched, third: Path) -> None:
    shutil.copytree(third, watched.folder(3))
    assert watched.scan() == ["meta-policy added"]
    assert watched.versions == [1, 2, 3]
    assert watched.catalog.find(NAME, 0).message.version == 3
    assert watched.scan() == []


def test_a_partly_copied_version_is_logged_once_and_served_when_complete(watched: Watched, third: Path) -> None:
    folder = watched.folder(3)
    folder.mkdir()
    files = sorted(third.iterdir(), key=lambda path: path.name != "manifest.json")
    logged = []
    for file in files:
        data = file.read_bytes()
        for part in (data[: len(data) // 2], data):
            assert watched.versions == [1, 2]
            (folder / file.name).write_bytes(part)
            logged += watched.scan()
    assert watched.versions == [1, 2, 3]
    assert logged == ["meta-policy refused", "meta-policy added"]


def test_a_damaged_version_is_not_read_again_until_its_files_change(
    watched: Watched, third: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(third, watched.folder(3))
    (watched.folder(3) / "policy.onnx").write_bytes(b"")
    assert watched.scan() == ["meta-policy refused"]
    read: list[Path] = []

    def load(directory: Path, *arguments: Any) -> models.MetaPolicy:
        read.append(directory)
        return models.load_meta_policy(directory, *arguments)

    monkeypatch.setattr("thetaprime.server.catalog.catalog.load_meta_policy", load)
    assert (watched.scan(), read) == ([], [])
    shutil.copy(third / "policy.onnx", watched.folder(3))
    assert (watched.scan(), read) == (["meta-policy added"], [watched.folder(3)])


def test_a_broken_folder_does_not_keep_the_next_from_being_served(watched: Watched, third: Path) -> None:
    (watched.zoo / "a-loop" / "1").mkdir(parents=True)
    (watched.zoo / "a-loop" / "1" / "manifest.json").symlink_to("manifest.json")
    (watched.zoo / "a-folder" / "1" / "manifest.json").mkdir(parents=True)
    shutil.copytree(third, watched.folder(3))
    assert watched.scan().count("meta-policy added") == 1
    assert watched.versions == [1, 2, 3]
    assert watched.scan() == []


def test_a_folder_that_attacks_its_reader_does_not_keep_the_next_from_being_served(
    watched: Watched, third: Path
) -> None:
    """An ordinary reader would wait for the FIFO for good, and fill the memory from the device."""
    for name, kind in (("a-fifo", "fifo"), ("a-device", "link"), ("a-deep-one", "json"), ("²", "none")):
        folder = shutil.copytree(third, watched.zoo / name / ("1" if kind != "none" else "²"))
        file = folder / ("manifest.json" if kind == "json" else "policy.onnx")
        file.unlink()
        match kind:
            case "fifo":
                os.mkfifo(file)
            case "link":
                file.symlink_to("/dev/zero")
            case "json":
                file.write_text("[" * 100_000)
    shutil.copytree(third, watched.folder(3))
    assert sorted(watched.scan()) == ["meta-policy added", *["meta-policy refused"] * 3]
    assert watched.versions == [1, 2, 3]
    assert watched.scan() == []


def test_an_onnx_file_that_a_client_would_refuse_is_refused(watched: Watched, third: Path) -> None:
    """Users run the file from the folder; the server itself does not parse it."""
    folder = shutil.copytree(third, watched.folder(3))
    model = onnx.load(folder / "policy.onnx")
    model.graph.node.append(onnx.helper.make_node("Loop", ["obs"], ["bomb"]))
    manifest = models.load_meta_policy(folder).manifest
    data = model.SerializeToString()
    (folder / "policy.onnx").write_bytes(data)
    files = {**manifest.files, "policy.onnx": wire.sha256_hex(data)}
    (folder / "manifest.json").write_bytes(manifest.model_copy(update={"files": files}).sealed().to_bytes())
    with structlog.testing.capture_logs() as logs:
        watched.watch.scan()
    assert [each["event"] for each in logs] == ["meta-policy refused"]
    assert "policy.onnx: onnx.graph.node[" in logs[0]["problem"]
    assert "operator 'Loop'" in logs[0]["problem"]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ({"calibration.pairs": torch.zeros(3)}, "calibration.theta.observation is missing"),
        ({"calibration.gain.gains": torch.zeros(30)}, "calibration.gain.features is missing"),
        (
            {"calibration.gain.gains": torch.full((30,), torch.nan), "calibration.gain.features": torch.zeros(30, 2)},
            "calibration.gain.gains is not finite",
        ),
    ],
)
def test_a_damaged_calibration_is_refused_by_field(
    watched: Watched, third: Path, damage: dict[str, torch.Tensor], problem: str
) -> None:
    """Formerly it was served, and each step of a session failed."""
    folder = shutil.copytree(third, watched.folder(3))
    artifact = models.load_meta_policy(folder)
    manifest = artifact.manifest
    data = parameters_to_bytes({**artifact.reference, **damage})
    (folder / "reference.safetensors").write_bytes(data)
    files = {**manifest.files, "reference.safetensors": wire.sha256_hex(data)}
    (folder / "manifest.json").write_bytes(manifest.model_copy(update={"files": files}).sealed().to_bytes())
    with structlog.testing.capture_logs() as logs:
        watched.watch.scan()
    assert [each["event"] for each in logs] == ["meta-policy refused"]
    assert f"reference.safetensors: {problem}" in logs[0]["problem"]


def test_a_folder_with_too_many_entries_keeps_its_versions(
    watched: Watched, third: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thetaprime.models.artifact_folders._MAX_ENTRIES", 4)
    for index in range(5):
        (watched.zoo / NAME / f"more{index}").mkdir()
    shutil.copytree(third, watched.zoo / "another" / "3")
    assert sorted(watched.scan()) == ["meta-policy added", "zoo folder not scanned"]
    assert watched.versions == [1, 2, 3]
    assert watched.scan() == []
    monkeypatch.undo()
    shutil.rmtree(watched.folder(2))
    assert watched.scan() == ["meta-policy withdrawn"]


def test_a_removed_version_is_withdrawn_and_may_return(watched: Watched, tmp_path: Path) -> None:
    entry = watched.catalog.find(NAME, 2)
    shutil.move(watched.folder(2), tmp_path / "away")
    assert watched.scan() == ["meta-policy withdrawn"]
    assert watched.versions == [1]
    with pytest.raises(NotFoundError):
        watched.catalog.find(NAME, 2)
    assert watched.catalog.recall(NAME, 2) is entry
    assert watched.catalog.describe(NAME, 2) == entry.message
    shutil.move(tmp_path / "away", watched.folder(2))
    assert watched.scan() == ["meta-policy added"]
    assert watched.catalog.find(NAME, 2) is entry


def test_a_version_never_changes_its_artifact(watched: Watched, write_point_artifact: Write) -> None:
    entry = watched.catalog.find(NAME, 2)
    shutil.rmtree(watched.folder(2))
    write_point_artifact(watched.zoo, 2, seed=7)
    assert watched.scan() == ["meta-policy refused"]  # overwritten
    assert watched.catalog.find(NAME, 2) is entry
    shutil.rmtree(watched.folder(2))
    assert watched.scan() == ["meta-policy withdrawn"]
    write_point_artifact(watched.zoo, 2, seed=7)
    assert watched.scan() == ["meta-policy refused"]  # returned as another artifact
    assert watched.versions == [1]
    assert watched.catalog.recall(NAME, 2) is entry


def test_a_damaged_version_continues_to_be_served(watched: Watched) -> None:
    entry = watched.catalog.find(NAME, 2)
    (watched.folder(2) / "theta.safetensors").write_bytes(b"")
    assert watched.scan() == ["meta-policy refused"]
    assert watched.scan() == []
    assert watched.catalog.find(NAME, 2) is entry


def test_the_second_folder_of_one_version_is_refused_until_the_first_is_removed(watched: Watched) -> None:
    again = watched.zoo / "copy" / "2"
    shutil.copytree(watched.folder(2), again)
    assert watched.scan() == ["meta-policy refused"]
    shutil.rmtree(watched.folder(2))
    assert watched.scan() == ["meta-policy withdrawn", "meta-policy added"]
    assert watched.versions == [1, 2]


def test_a_missing_zoo_folder_changes_nothing(watched: Watched, tmp_path: Path) -> None:
    watched.zoo.rename(tmp_path / "away")
    assert watched.scan() == ["zoo folder is missing"]
    assert watched.scan() == []
    assert watched.versions == [1, 2]
    (tmp_path / "away").rename(watched.zoo)
    assert watched.scan() == []


def labels(service: "Service") -> list[int]:
    listed = service.meta_stub.ListMetaPolicies(meta_pb.ListMetaPoliciesRequest(), timeout=60)
    return [each.version for each in listed.meta_policies]


def wait_for(service: "Service", versions: list[int]) -> None:
    deadline = time.monotonic() + 60
    while labels(service) != versions:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_sessions_keep_their_version_while_versions_are_added_and_removed(
    start: "Start", collect: Collect, zoo: Path, third: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(zoo, tmp_path / "zoo")
    with start(zoo=(copy,), catalog_seconds=0.02) as service:
        begun = service.create()
        session_id = begun.session.session_id
        (copy / NAME / "3").mkdir()
        shutil.copy(third / "manifest.json", copy / NAME / "3")
        assert labels(service) == [1, 2]
        shutil.copytree(third, copy / NAME / "3", dirs_exist_ok=True)
        wait_for(service, [1, 2, 3])
        assert service.create().session.meta_policy.version == 3
        assert service.get(session_id).session.meta_policy.version == 2
        shutil.rmtree(copy / NAME / "2")
        wait_for(service, [1, 3])
        with service.refuses() as refusal:
            service.create(meta_policy_version=2)
        assert refusal.code is grpc.StatusCode.NOT_FOUND
        batch = service.upload(session_id, collect(begun.policy)).batch
        adapted = service.adapt(session_id, 0, batch.sha256)
        assert adapted.session.meta_policy == begun.session.meta_policy
    with start() as undisturbed:
        again = undisturbed.create(meta_policy_version=2).session.session_id
        batch = undisturbed.upload(again, collect(begun.policy)).batch
        assert undisturbed.adapt(again, 0, batch.sha256).policy == adapted.policy


def test_a_replayed_session_of_an_unseen_version_does_not_block_other_calls(
    start: "Start", configure: "Configure", zoo: Path, third: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two servers share a store; the second one has not seen the version of the first one's session."""
    scanning, go_on = threading.Event(), threading.Event()

    def slow(folder: Path) -> tuple[list[Path], list[models.ArtifactError]]:
        scanning.set()
        assert go_on.wait(60)
        return models.scan_meta_policies(folder)

    folders = [shutil.copytree(zoo, tmp_path / name) for name in ("first", "second")]
    shutil.copytree(third, folders[0] / NAME / "3")
    store = configure().store
    with (
        start(store=store, zoo=(folders[0],)) as first,
        start(store=store, zoo=(folders[1],), catalog_seconds=3600.0) as second,
        ThreadPoolExecutor(1) as threads,
    ):
        created = first.create(request_id="shared")
        assert created.session.meta_policy.version == 3
        shutil.copytree(third, folders[1] / NAME / "3")
        monkeypatch.setattr("thetaprime.server.catalog.watcher.scan_meta_policies", slow)
        replayed = threads.submit(second.create, request_id="shared")
        try:
            assert scanning.wait(60)
            listed = second.meta_stub.ListMetaPolicies(meta_pb.ListMetaPoliciesRequest(), timeout=30)
            assert len(listed.meta_policies) == 2
            assert not replayed.done()
        finally:
            go_on.set()
        assert replayed.result() == created
