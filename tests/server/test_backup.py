"""Export and import of a store: complete, between stores of any kind, and a session goes on to the same bits."""

import contextlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from tests.server.test_store import Clock, record
from tests.server.test_usage import add_sessions, add_uploads, session_record, total
from tests.support.command import last_json
from tests.support.server.object_store import URL, object_store
from tests.support.server.postgres import Postgres
from thetaprime import wire
from thetaprime.cli._main import cli
from thetaprime.server.errors import CorruptDataError, StartupError
from thetaprime.server.store import Store, SweptSession
from thetaprime.server.store.backup import BackupError, export_store, import_store
from thetaprime.server.store.bucket import BlobBucket
from thetaprime.server.store.check import check

if TYPE_CHECKING:
    from tests.support.server.service import Start

Collect = Callable[..., list[wire.Trajectory]]


def run(*arguments: object) -> Any:
    return last_json(CliRunner().invoke(cli, ["store", *map(str, arguments), "--json"]))


@pytest.mark.slow
def test_a_session_goes_on_in_another_kind_of_store(
    start: "Start", collect: Collect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "backup.tar"
    with start(store=tmp_path / "store") as service:
        created = service.create()
        session_id = created.session.session_id
        batch = service.upload(session_id, collect(created.policy), upload_id="u").batch
        adapted = service.adapt(session_id, 0, batch.sha256)
        batch = service.upload(session_id, collect(adapted.policy, seed=1), round_index=1, upload_id="v").batch
        service.create(request_id="another")
        written = run("export", "--store", tmp_path / "store", "--output", file)
        assert (written["sessions"], written["uploads"], written["policies"], written["blobs"]) == (2, 2, 1, 3)
        before, undisturbed = service.get(session_id), service.adapt(session_id, 1, batch.sha256)
    assert file.stat().st_mode & 0o777 == 0o600
    with contextlib.closing(Postgres()) as postgres, object_store(tmp_path / "objects", monkeypatch):
        url = postgres.database()
        read = run("import", file, "--store", url, "--blobs", URL, "--row-bytes", 0)
        assert {**read, "output": str(file)} == {**written, "store": url}
        assert len(list(BlobBucket(URL).digests())) == 3
        with contextlib.closing(Store(url, blobs=URL)) as store:
            assert not check(store)
        with start(store=url, blobs=URL, row_bytes=0) as restored:
            assert restored.get(session_id) == before
            assert restored.upload(session_id, collect(adapted.policy, seed=1), round_index=1, upload_id="v").batch
            again = restored.adapt(session_id, 1, batch.sha256)
            assert again.policy == undisturbed.policy
            assert again.policy.onnx == undisturbed.policy.onnx
        # And back, into a folder.
        back = tmp_path / "back.tar"
        assert run("export", "--store", url, "--blobs", URL, "--output", back)["policies"] == 2
        run("import", back, "--store", tmp_path / "third")
        assert run("check", "--store", tmp_path / "third")["found"] == []
        with start(store=tmp_path / "third") as third:
            assert third.adapt(session_id, 1, batch.sha256).policy == undisturbed.policy


def exported(store: Store) -> io.BytesIO:
    file = io.BytesIO()
    export_store(store, file)
    file.seek(0)
    return file


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with contextlib.closing(Store(tmp_path / "store", row_bytes=100, now=lambda: 0)) as opened:
        add_sessions(opened, *(session_record(f"s{index:03}") for index in range(120)))
        add_uploads(opened, ("s000", "u", b"small"), ("s119", "ü\x1b", bytes(500)), ("s060", "u", bytes(500)))
        yield opened


def test_counts_are_those_of_the_new_store(store: Store, tmp_path: Path) -> None:
    file = exported(store)
    for row_bytes in (0, 100, 10_000):
        with contextlib.closing(Store(tmp_path / f"{row_bytes}", row_bytes=row_bytes, now=lambda: 0)) as other:
            file.seek(0)
            counts = import_store(other, file)
            assert (counts.sessions, counts.uploads, counts.blobs, counts.bytes) == (120, 3, 2, 505)
            assert not check(other)
            assert total(other).sessions == 120
            assert total(other).steps == total(store).steps


def rewritten(file: io.BytesIO, change: Callable[[str, bytes], bytes | None]) -> io.BytesIO:
    """Returns an archive with each file changed, or left out where the change is None."""
    result = io.BytesIO()
    with tarfile.open(fileobj=file) as before, tarfile.open(fileobj=result, mode="w") as after:
        for member in before:
            content = before.extractfile(member)
            assert content is not None
            data = change(member.name, content.read())
            if data is not None:
                member.size = len(data)
                after.addfile(member, io.BytesIO(data))
    result.seek(0)
    return result


def manifest_with(**fields: object) -> Callable[[str, bytes], bytes]:
    def change(name: str, data: bytes) -> bytes:
        return json.dumps(json.loads(data) | fields).encode() if name == "manifest.json" else data

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda name, data: None if name == "end.json" else data, "cut off"),
        (lambda name, data: None if name.startswith("rows/00000001") else data, "does not end with the counts"),
        (lambda name, data: None if name == "manifest.json" else data, "does not begin with manifest.json"),
        (lambda name, data: b"x" + data[1:] if name.startswith("blobs/") else data, "another digest"),
        (lambda name, data: data.replace(b"s119", b"s11x") if name.startswith("rows/") else data, "damaged"),
        (lambda name, data: b"[]" if name.startswith("rows/") else data, "expected a JSON object"),
        (lambda name, data: b"{}" if name.startswith("rows/") else data, "not rows of this schema"),
        (lambda name, data: data.replace(b'"doubt"', b'"novel"') if name[:4] == "rows" else data, "novel"),
        (manifest_with(format="other"), "format 'other'"),
        (manifest_with(schema_version=99), "schema version 99"),
    ],
)
def test_a_damaged_export_is_refused_and_imports_nothing(
    store: Store, tmp_path: Path, change: Callable[[str, bytes], bytes | None], problem: str
) -> None:
    damaged = rewritten(exported(store), change)
    with contextlib.closing(Store(tmp_path / "other", now=lambda: 0)) as other:
        with pytest.raises(BackupError, match=problem):
            import_store(other, damaged)
        assert total(other).sessions == 0
        assert not check(other)


@pytest.mark.parametrize("length", [0, 100, 5_000])
def test_an_export_that_was_cut_off_is_refused(store: Store, tmp_path: Path, length: int) -> None:
    cut = io.BytesIO(exported(store).getvalue()[:length])
    with contextlib.closing(Store(tmp_path / "other", now=lambda: 0)) as other:
        with pytest.raises(BackupError, match=r"cut off|no export"):
            import_store(other, cut)
        assert total(other).sessions == 0


def test_a_store_with_sessions_takes_no_import(store: Store) -> None:
    file = exported(store)
    with pytest.raises(StartupError, match="120 sessions"):
        import_store(store, file)


def test_a_lost_blob_ends_an_export(store: Store) -> None:
    store.blobs.delete(wire.sha256_hex(bytes(500)))
    with pytest.raises(CorruptDataError, match="store check"):
        exported(store)


def test_what_a_sweep_deletes_during_an_export_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    with contextlib.closing(Store(tmp_path / "store", row_bytes=0, now=clock)) as store:
        add_sessions(store, record("gone", 2_000), session_record("stays"))
        add_uploads(store, ("gone", "u", b"a"), ("stays", "u", b"b"))
        read = store.read_in

        def sweep_first(connection: Any, digest: str) -> bytes:
            with store.writing() as other:
                store.delete_sessions(other, [SweptSession("expired", "", "gone", 0, "p")])
            return read(connection, digest)

        monkeypatch.setattr(store, "read_in", sweep_first)
        file = exported(store)
        with contextlib.closing(Store(tmp_path / "other", now=lambda: 0)) as other:
            counts = import_store(other, file)
            assert (counts.uploads, counts.blobs) == (1, 1)
            assert not check(other)


def test_a_file_is_written_whole_or_not_at_all(store: Store, tmp_path: Path) -> None:
    store.blobs.delete(wire.sha256_hex(bytes(500)))
    file = tmp_path / "backup.tar"
    command = ["store", "export", "--store", str(tmp_path / "store"), "--output", str(file)]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 2
    assert "store check" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]
    file.write_bytes(b"precious")
    assert "exists" in CliRunner().invoke(cli, command).stderr
    assert file.read_bytes() == b"precious"
