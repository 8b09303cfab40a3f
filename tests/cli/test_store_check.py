"""`thetaprime store check` finds every kind of damage, says it, and mends what can be mended."""

import contextlib
import json
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from thetaprime import wire
from thetaprime.cli._main import cli
from thetaprime.server.store import Store, tables
from thetaprime.server.store.usage import row_bytes, upload_bytes

NAMED, LARGE = b"named", b"large" * 100


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with a session of two uploads: one payload in a row, one in a file."""
    session: dict[str, Any] = {
        "session_id": "s",
        "tenant": "alice",
        "request_id": "r",
        "request_sha256": "",
        "meta_policy": "m",
        "meta_policy_version": 1,
        "theta_id": "t",
        "closed": False,
        "round": 1,
        "policy_id": "p",
        "create_time": 0,
        "expire_time": 2**62,
        "delete_time": 2**62,
        "kept_steps": 2,
        "policy_bytes": 0,
    }
    with contextlib.closing(Store(tmp_path / "store", row_bytes=100)) as store:
        blobs = {wire.sha256_hex(data): data for data in (NAMED, LARGE)}
        size = row_bytes(tables.sessions, session)
        with store.storing(blobs, "") as connection:
            size += store.keep(connection, blobs)
            rows = [
                {
                    "session_id": "s",
                    "upload_id": f"u{index}",
                    "round": 0,
                    "payload_sha256": digest,
                    "trajectories": 1,
                    "steps": 1,
                    "acknowledgement": b"",
                }
                for index, digest in enumerate(blobs)
            ]
            size += sum(map(upload_bytes, rows))
            connection.execute(tables.sessions.insert().values(session | {"kept_bytes": size}))
            connection.execute(tables.uploads.insert(), rows)
    return tmp_path / "store"


def run(folder: Path, *options: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(cli, ["store", "check", "--store", str(folder), "--json", *options])
    return result.exit_code, json.loads(result.stdout.splitlines()[-1])


def execute(folder: Path, statement: str, *arguments: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(folder / "thetaprime.sqlite3")) as database:
        rows = database.execute(statement, arguments).fetchall()
        database.commit()
    return rows


def kinds(found: list[dict[str, Any]]) -> dict[str, int]:
    return {each["kind"]: each["count"] for each in found}


def test_a_sound_store_has_no_findings(folder: Path) -> None:
    for options in ((), ("--repair",)):
        assert run(folder, *options) == (0, {"store": str(folder), "found": [], "mended": []})


def test_what_can_be_mended_is_mended_beside_a_running_store(folder: Path) -> None:
    for digest in (wire.sha256_hex(b"4"), "unnamed"):
        execute(folder, "INSERT INTO blobs VALUES (?, x'34')", digest)
    execute(folder, "UPDATE sessions SET kept_bytes = 1")
    execute(folder, "UPDATE usage SET sessions = 7")
    columns = "session_id, upload_id, round, payload_sha256, trajectories, steps, acknowledgement"
    gone = "VALUES ('gone', 'u', 0, ?, 1, 1, x'')"
    execute(folder, " ".join(["INSERT INTO uploads", f"({columns})", gone]), wire.sha256_hex(b"4"))
    young, old = (folder / "blobs" / (digit * 2) / (digit * 64) for digit in "01")
    fragment = folder / "blobs" / "arriving" / "half"
    for path in (young, old, fragment):
        path.write_bytes(b"left")
    for path in (old, fragment):
        os.utime(path, (time.time() - 7200,) * 2)
    expected = {
        "rows_without_session": 1,
        "unnamed_rows": 1,
        "unnamed_files": 1,
        "partial_files": 1,
        "wrong_session_counts": 1,
        "wrong_tenant_counts": 1,
    }
    with contextlib.closing(Store(folder)):
        status, before = run(folder)
        assert (status, kinds(before["found"])) == (1, expected)
        status, after = run(folder, "--repair")
        assert (status, after["found"]) == (0, [])
        assert kinds(after["mended"]) == expected
        assert run(folder)[0] == 0
    assert young.exists()
    assert not old.exists()


@pytest.mark.parametrize("damage", ["missing", "damaged"])
@pytest.mark.parametrize("blob", [NAMED, LARGE], ids=["row", "file"])
def test_a_lost_blob_is_found_and_kept_by_a_repair(folder: Path, blob: bytes, damage: str) -> None:
    digest = wire.sha256_hex(blob)
    path = folder / "blobs" / digest[:2] / digest
    if blob == LARGE:
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(bytes(len(LARGE)))
    elif damage == "missing":
        execute(folder, "DELETE FROM blobs WHERE sha256 = ?", digest)
    else:
        execute(folder, "UPDATE blobs SET data = x'0011223344' WHERE sha256 = ?", digest)
    for options in ((), ("--repair",)):
        status, report = run(folder, *options)
        assert status == 1
        assert kinds(report["found"])[f"{damage}_blobs"] == 1
    assert execute(folder, "SELECT COUNT(*) FROM uploads") == [(2,)]


@pytest.mark.parametrize("content", ["nothing", "no database"])
def test_what_is_no_store_is_refused_and_stays_as_it_is(tmp_path: Path, content: str) -> None:
    if content == "no database":
        (tmp_path / "blobs").mkdir()
        (tmp_path / "thetaprime.sqlite3").write_bytes(b"no database" * 100)
    before = sorted(tmp_path.iterdir())
    status, report = run(tmp_path)
    assert status == 2
    assert str(tmp_path) in report["error"]["message"]
    if content == "nothing":
        assert sorted(tmp_path.iterdir()) == before
