"""The store: blobs by digest, rows that keep blobs alive, and the schema version."""

import contextlib
import dataclasses
import os
import re
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from thetaprime.server import StartupError
from thetaprime.server.errors import CorruptDataError, NotFoundError, UnavailableError
from thetaprime.server.sessions.policies import read_memories
from thetaprime.server.sessions.rows import SessionRecord, find_session, uploaded_batch
from thetaprime.server.store import BlobFolder, Store, sqlite, tables
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import policy_pb2
from thetaprime.wire import sha256_hex


@given(st.lists(st.binary(max_size=200), max_size=8))
def test_blobs_are_read_by_their_digest(tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]) -> None:
    folder = tmp_path_factory.mktemp("blobs")
    blobs = BlobFolder(folder)
    digests = [blobs.put(data) for data in contents + contents]
    assert digests == [sha256_hex(data) for data in contents + contents]
    again = BlobFolder(folder)
    assert [again.get(digest) for digest in digests] == contents + contents
    assert set(again.digests()) == set(digests)
    assert not list((folder / "arriving").iterdir())
    for digest in digests:
        again.delete(digest)
        assert digest not in again


@given(st.binary(min_size=1, max_size=200), st.data())
def test_a_damaged_blob_is_never_returned(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("blobs")
    blobs = BlobFolder(folder)
    digest = blobs.put(content)
    place = data.draw(st.integers(0, len(content) - 1))
    damaged = bytearray(content)
    damaged[place] ^= data.draw(st.integers(1, 255))
    (folder / digest[:2] / digest).write_bytes(damaged)
    with pytest.raises(CorruptDataError, match="damaged"):
        blobs.get(digest)


def test_a_missing_blob_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptDataError, match="f" * 64):
        BlobFolder(tmp_path).get("f" * 64)


class Clock:
    now = 1_000

    def __call__(self) -> int:
        return self.now


def record(session_id: str, expire_time: int) -> SessionRecord:
    return SessionRecord(
        session_id=session_id,
        tenant="",
        request_id=session_id,
        request_sha256="",
        meta_policy="m",
        meta_policy_version=1,
        theta_id="t",
        step_size_scale=None,
        closed=False,
        round=0,
        policy_id="t",
        create_time=0,
        expire_time=expire_time,
        delete_time=expire_time + 1_000,
    )


def add(store: Store, session: SessionRecord, payload: bytes) -> str:
    digest = sha256_hex(payload)
    store.prepare({digest: payload})
    upload = {
        "session_id": session.session_id,
        "upload_id": "u",
        "round": 0,
        "payload_sha256": digest,
        "trajectories": 1,
        "steps": 1,
        "acknowledgement": b"",
    }
    with store.writing() as connection:
        connection.execute(tables.sessions.insert().values(dataclasses.asdict(session)))
        connection.execute(tables.uploads.insert().values(upload))
        store.keep(connection, {digest: payload})
    return digest


def kept(store: Store) -> set[str]:
    """Every blob, in a row or in a file."""
    with store.reading() as connection:
        return {*connection.scalars(sa.select(tables.blobs.c.sha256)), *store.blobs.digests()}


@pytest.fixture(params=[0, 5, 1 << 20], ids=["all files", "long ones files", "all rows"])
def row_bytes(request: pytest.FixtureRequest) -> int:
    """Largest blob that is a row; the blobs of these tests have 5 or 6 bytes."""
    return int(request.param)


@pytest.mark.parametrize("size", [0, 99, 100, 101])
def test_a_blob_is_a_row_or_a_file_by_its_size(tmp_path: Path, size: int) -> None:
    store, data = Store(tmp_path, row_bytes=100), bytes(size)
    digest = add(store, record("s", time.time_ns()), data)
    assert store.read(digest) == data
    assert set(store.blobs.digests()) == ({digest} if size > 100 else set())
    store.close()
    # A store with another limit finds the blob.
    for limit in (0, 1000):
        again = Store(tmp_path, row_bytes=limit)
        assert again.read(digest) == data
        again.close()


def test_a_damaged_or_missing_row_is_never_returned(tmp_path: Path) -> None:
    store = Store(tmp_path)
    digest = add(store, record("s", time.time_ns()), b"payload")
    with store.writing() as connection:
        connection.execute(tables.blobs.update().values(data=b"paYload"))
    with pytest.raises(CorruptDataError, match="damaged"):
        store.read(digest)
    with store.writing() as connection:
        connection.execute(tables.blobs.delete())
    with pytest.raises(CorruptDataError, match="lost"):
        store.read(digest)
    store.close()


def test_a_sweep_returns_pages_to_the_disk(tmp_path: Path) -> None:
    clock = Clock()
    store = Store(tmp_path, now=clock)
    for index in range(8):
        add(store, record(f"s{index}", 2_000), os.urandom(100_000))
    clock.now = 2_000
    with store.reading() as connection:
        before = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    assert store.sweep() == 8
    with store.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA page_count").scalar_one() < before / 4
    store.close()


def test_a_sweep_deletes_expired_sessions_and_unshared_blobs(tmp_path: Path, row_bytes: int) -> None:
    clock = Clock()
    store = Store(tmp_path, now=clock, row_bytes=row_bytes)
    shared = add(store, record("early", 2_000), b"shared")
    add(store, record("late", 3_000), b"shared")
    alone = add(store, record("early too", 2_000), b"alone")
    assert store.sweep() == 0
    clock.now = 2_000
    with store.reading() as connection, pytest.raises(NotFoundError):
        find_session(connection, "", "early", clock())
    assert store.sweep() == 2
    assert kept(store) == {shared}
    assert alone != shared
    clock.now = 3_000
    assert store.sweep() == 1
    assert not kept(store)
    with store.reading() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.uploads)) == 0
    store.close()


def test_old_orphans_of_a_crash_are_swept(tmp_path: Path) -> None:
    store = Store(tmp_path, row_bytes=0)
    named = add(store, record("s", time.time_ns()), b"named")
    orphan, recent = store.blobs.put(b"orphan"), store.blobs.put(b"recent")
    fragment = tmp_path / "blobs" / "arriving" / "half"
    fragment.write_bytes(b"ha")
    old = time.time() - 2 * 3600
    for path in (fragment, *(tmp_path / "blobs" / digest[:2] / digest for digest in (named, orphan))):
        os.utime(path, (old, old))
    store.sweep_orphans()
    assert set(store.blobs.digests()) == {named, recent}
    assert not fragment.exists()
    store.close()


def test_a_blob_that_was_swept_before_its_row_is_written_again(tmp_path: Path) -> None:
    store = Store(tmp_path, row_bytes=0)
    blobs = {sha256_hex(b"data"): b"data"}
    store.prepare(blobs)
    for digest in blobs:
        store.blobs.delete(digest)
    with store.writing() as connection:
        store.keep(connection, blobs)
    assert [store.read(digest) for digest in blobs] == [b"data"]
    store.close()


def test_a_failed_transaction_leaves_no_rows(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(ZeroDivisionError), store.writing() as connection:
        connection.execute(tables.sessions.insert().values(dataclasses.asdict(record("s", 10**18))))
        raise ZeroDivisionError
    with store.reading() as connection, pytest.raises(NotFoundError):
        find_session(connection, "", "s", 0)
    store.close()


def test_commits_are_synchronous_and_foreign_keys_hold(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.reading() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    store.close()


def test_a_store_that_stays_locked_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(tmp_path).close()
    monkeypatch.setattr(sqlite, "_BUSY_SECONDS", 0.01)
    first, second = Store(tmp_path), Store(tmp_path)
    with first.writing(), pytest.raises(UnavailableError), second.writing():
        pass
    first.close()
    second.close()


def test_writers_behind_a_locked_database_do_not_wait_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(tmp_path).close()
    monkeypatch.setattr(sqlite, "_BUSY_SECONDS", 1.0)
    monkeypatch.setattr(sqlite, "_LOCKED_SECONDS", 0.01)
    other, store = Store(tmp_path), Store(tmp_path)

    def write(_: int) -> None:
        with store.writing():
            pass

    started = time.monotonic()
    with other.writing(), ThreadPoolExecutor(20) as threads:
        failures = [each.exception() for each in [threads.submit(write, number) for number in range(20)]]
        for number in range(5):
            with pytest.raises(UnavailableError):
                write(number)
    assert all(isinstance(failure, UnavailableError) for failure in failures)
    # 25 waits of a second, one after the other, took 25 seconds.
    assert time.monotonic() - started < 15
    # The first writer after it succeeds, and the next ones have their patience again.
    write(0)
    with store.writing() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 1000
    other.close()
    store.close()


def test_a_store_that_is_older_than_a_column_gets_it(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "thetaprime.sqlite3")) as connection:
        for table, column in (
            ("uploads", "counted"),
            ("uploads", "evidence"),
            ("sessions", "doubt"),
            ("sessions", "options"),
            ("sessions", "best_round"),
            ("sessions", "best_policy_id"),
            ("policies", "memory"),
        ):
            connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        connection.execute(
            "INSERT INTO sessions VALUES ('s', '', 'r', 'd', 'm', 1, 't', NULL, 0, 0, 'p', 1, 9, 9, 0, 0, 0)"
        )
        connection.execute("INSERT INTO uploads VALUES ('s', 'u', 0, 'f', 2, 8, x'00')")
        connection.execute("INSERT INTO policies VALUES ('s', 1, 'b', 'o', x'', x'')")
        connection.commit()
    store = Store(tmp_path, now=lambda: 5)
    with store.reading() as connection:
        session = find_session(connection, "", "s", store.now())
        batch = uploaded_batch(connection, session)
        assert read_memories(connection, dataclasses.replace(session, round=1)) == (None,)
    message = session.message(batch, policy_pb2.MetaPolicy())
    assert (message.best_round, message.best_policy_id) == (0, "t")
    assert message.options == service_pb.SessionOptions()
    assert (session.doubt, batch.uploads, batch.trajectories, batch.evidence) == (None, 1, 2, (None,))
    store.close()
    Store(tmp_path).close()


@pytest.mark.parametrize(("version", "remedy"), [(1, "use another folder"), (3, "use another"), (6, "upgrade")])
def test_a_store_of_another_schema_version_is_refused_unchanged(tmp_path: Path, version: int, remedy: str) -> None:
    connection = sqlite3.connect(tmp_path / "thetaprime.sqlite3")
    connection.execute("CREATE TABLE schema_info (version INTEGER NOT NULL, PRIMARY KEY (version))")
    connection.execute("CREATE TABLE sessions (session_id VARCHAR NOT NULL, request_id VARCHAR NOT NULL)")
    connection.execute("INSERT INTO schema_info VALUES (?)", (version,))
    connection.commit()
    before = list(connection.iterdump())
    expected = f"{tmp_path}: schema version {version}; this server reads version 5: {remedy}"
    with pytest.raises(StartupError, match=re.escape(expected)):
        Store(tmp_path)
    assert list(connection.iterdump()) == before
    connection.close()


def test_a_reopened_store_has_its_rows_and_blobs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    digest = add(store, record("s", time.time_ns()), b"payload")
    store.close()
    again = Store(tmp_path)
    with again.reading() as connection:
        assert find_session(connection, "", "s", 0).session_id == "s"
    assert again.read(digest) == b"payload"
    again.close()


def test_a_file_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thetaprime.sqlite3").write_bytes(b"not a database" * 100)
    with pytest.raises(StartupError, match="not a database"):
        Store(tmp_path)


def test_a_folder_that_cannot_be_created_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StartupError, match="file"):
        Store(tmp_path / "file" / "store")
