"""What a tenant has stored: counted from above, the same as a recount, and released in full."""

import contextlib
import dataclasses
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from thetaprime.server.sessions.rows import SessionRecord, add_kept
from thetaprime.server.store import Store, tables
from thetaprime.server.store.usage import Usage, blob_bytes, recount, row_bytes, tenant_usage, upload_bytes
from thetaprime.wire import sha256_hex

SCHEMA_4: Final = Path(__file__).parent / "schema_4.sql"
LONGEST: Final = "ø" * 64 + "𝛉" * 64


def session_record(session_id: str, tenant: str = "alice", **fields: Any) -> SessionRecord:
    plain = SessionRecord(
        session_id=session_id,
        tenant=tenant,
        request_id=session_id,
        request_sha256="0" * 64,
        meta_policy="m",
        meta_policy_version=1,
        theta_id="1" * 64,
        step_size_scale=None,
        closed=False,
        round=0,
        policy_id="1" * 64,
        create_time=0,
        expire_time=1_000,
        delete_time=2_000,
    )
    record = dataclasses.replace(plain, **fields)
    return dataclasses.replace(record, kept_bytes=row_bytes(tables.sessions, dataclasses.asdict(record)))


def add_sessions(store: Store, *records: SessionRecord) -> None:
    with store.writing() as connection:
        connection.execute(tables.sessions.insert(), [dataclasses.asdict(record) for record in records])


def add_uploads(store: Store, *uploads: tuple[str, str, bytes]) -> None:
    """Stores uploads: the session's id, the upload's id, and its payload."""
    blobs = {sha256_hex(payload): payload for _, _, payload in uploads}
    with store.storing(blobs, "") as connection:
        for session_id, upload_id, payload in uploads:
            digest = sha256_hex(payload)
            row = {
                "session_id": session_id,
                "upload_id": upload_id,
                "round": 0,
                "payload_sha256": digest,
                "trajectories": 1,
                "steps": 1,
                "acknowledgement": bytes(150),
            }
            add_kept(
                connection, session_id, size=upload_bytes(row) + store.keep(connection, {digest: payload}), steps=1
            )
            connection.execute(tables.uploads.insert().values(row))


def total(store: Store, tenant: str = "alice") -> Usage:
    """What the triggers have added up, which a recount confirms."""
    with store.reading() as connection:
        counted = list(recount(connection, store.blobs).values())
        usage = tenant_usage(connection, tenant)
    assert usage == Usage(*(sum(getattr(each, field) for each in counted) for field in ("sessions", "bytes", "steps")))
    return usage


def on_disk(folder: Path) -> int:
    """Bytes of a store's files, with the write-ahead log in the database."""
    connection = sqlite3.connect(folder / "thetaprime.sqlite3")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    files = [path.stat() for path in folder.rglob("*") if path.is_file() and not path.name.endswith("-shm")]
    return sum(max(each.st_size, each.st_blocks * 512) for each in files)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with contextlib.closing(Store(tmp_path, now=lambda: 1_000)) as opened:
        yield opened


def many_sessions(store: Store) -> None:
    add_sessions(store, *(session_record(f"{index:032x}", closed=True) for index in range(300)))


def many_sessions_with_long_ids(store: Store) -> None:
    ids = (f"{index:03}{LONGEST[3:]}" for index in range(200))
    add_sessions(store, *(session_record(f"{index:032x}", request_id=each) for index, each in enumerate(ids)))


def tiny_uploads_with_long_ids(store: Store) -> None:
    add_sessions(store, session_record("s"))
    add_uploads(store, *(("s", f"{index:03}{LONGEST[3:]}", os.urandom(136)) for index in range(100)))


def payloads_that_fill_half_a_page(store: Store) -> None:
    add_sessions(store, session_record("s"))
    sizes = [1900, 2100, 4100] * 30
    add_uploads(store, *(("s", f"u{index}", os.urandom(size)) for index, size in enumerate(sizes)))


def uploads_between_which_others_expire(store: Store) -> None:
    # Of five neighbors in the tables, three go: SQLite keeps the pages a third full.
    add_sessions(store, session_record("long", expire_time=10**18, delete_time=10**18))
    add_sessions(store, session_record("short", tenant="bob"))
    owners = ["short" if index % 5 < 3 else "long" for index in range(200)]
    add_uploads(store, *((owner, f"{index:06}", os.urandom(700)) for index, owner in enumerate(owners)))
    assert store.sweep() == 1


ATTACKS: Final = (
    many_sessions,
    many_sessions_with_long_ids,
    tiny_uploads_with_long_ids,
    payloads_that_fill_half_a_page,
    uploads_between_which_others_expire,
)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
@pytest.mark.parametrize("row_bytes", [0, 1 << 20], ids=["files", "rows"])
def test_no_choice_of_calls_stores_more_than_counts(
    tmp_path: Path, attack: Callable[[Store], None], row_bytes: int
) -> None:
    with contextlib.closing(Store(tmp_path, now=lambda: 1_000, row_bytes=row_bytes)) as store:
        empty = on_disk(tmp_path)
        attack(store)
        grown = on_disk(tmp_path) - empty
        counted = total(store).bytes
        assert grown <= counted
        # An upper bound, and not much more.
        assert counted < 6 * grown
        store.now = lambda: 2 * 10**18
        store.sweep()
        assert total(store) == Usage()
        # Pages that were used stay in the tree of the free ones.
        assert on_disk(tmp_path) - empty <= 64 * 1024


@given(size=st.integers(0, 100_000))
def test_a_blob_counts_at_least_its_bytes_and_at_most_two_pages_more(size: int) -> None:
    for is_row in (False, True):
        assert size < blob_bytes(size, is_row=is_row) <= size + 2.2 * 4096


def test_ids_count_their_bytes_in_every_index() -> None:
    short, long = ({"session_id": "s", "upload_id": upload_id, "trajectories": 1} for upload_id in ("u" * 128, LONGEST))
    more = len(LONGEST.encode()) - 128
    # In the row and in the primary key, at worst in pages that are a third full.
    assert upload_bytes(long) - upload_bytes(short) == 2 * 3 * more


def test_two_sessions_share_a_blob_and_both_count_it(store: Store) -> None:
    for index, tenant in enumerate(("alice", "clara")):
        add_sessions(store, session_record(f"s{index}", tenant=tenant))
        add_uploads(store, (f"s{index}", "u", b"payload" * 1000))
    with store.reading() as connection:
        assert tenant_usage(connection, "alice") == tenant_usage(connection, "clara")


def test_a_blob_stays_where_it_is_when_the_limit_of_rows_changes(tmp_path: Path) -> None:
    for index, limit in enumerate((0, 1 << 20, 0)):
        with contextlib.closing(Store(tmp_path, now=lambda: 0, row_bytes=limit)) as store:
            add_sessions(store, session_record(f"s{index}"))
            add_uploads(store, (f"s{index}", "u", b"first"))
            add_uploads(store, (f"s{index}", "v", b"other" if index else b"first"))
            assert total(store).sessions == index + 1


def test_a_refused_transaction_leaves_no_file(tmp_path: Path) -> None:
    blobs = {sha256_hex(data): data for data in (b"named", b"refused")}
    with contextlib.closing(Store(tmp_path, now=lambda: 0, row_bytes=0)) as store:
        add_sessions(store, session_record("s"))
        add_uploads(store, ("s", "u", b"named"))
        with pytest.raises(ZeroDivisionError), store.storing(blobs, ""):
            raise ZeroDivisionError
        with store.storing(blobs, ""):
            pass
        assert set(store.blobs.digests()) == {sha256_hex(b"named")}


def test_a_store_of_version_4_is_migrated(tmp_path: Path) -> None:
    (tmp_path / "blobs" / "fe").mkdir(parents=True)
    large, small = b"large", b"small"
    with contextlib.closing(sqlite3.connect(tmp_path / "thetaprime.sqlite3")) as old:
        old.execute("PRAGMA auto_vacuum = INCREMENTAL")
        old.executescript(SCHEMA_4.read_text())
        old.execute("INSERT INTO schema_info VALUES (4)")
        for tenant in ("", "alice"):
            for index in range(2):
                old.execute(
                    "INSERT INTO sessions VALUES (?, ?, ?, '', 'm', 1, 't', NULL, 0, 1, 'p', 0, 1000, 2000, 12, 3)",
                    (f"{tenant}{index}", tenant, f"r{index}"),
                )
                old.execute(
                    "INSERT INTO uploads VALUES (?, 'u', 0, ?, 1, 3, x'00')", (f"{tenant}{index}", sha256_hex(large))
                )
                old.execute(
                    "INSERT INTO policies VALUES (?, 1, 'b', ?, x'00', x'00')", (f"{tenant}{index}", sha256_hex(small))
                )
        old.execute("INSERT INTO blobs VALUES (?, ?)", (sha256_hex(small), small))
        old.commit()
    path = tmp_path / "blobs" / sha256_hex(large)[:2] / sha256_hex(large)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(large)
    for _ in range(2):
        with contextlib.closing(Store(tmp_path, now=lambda: 0)) as store, store.reading() as connection:
            assert connection.scalar(sa.select(tables.schema_info.c.version)) == tables.SCHEMA_VERSION
            for tenant in ("", "alice"):
                counted = recount(connection, store.blobs, [f"{tenant}{index}" for index in range(2)])
                usage = tenant_usage(connection, tenant)
                assert usage == Usage(2, sum(each.bytes for each in counted.values()), 6)
                assert usage.bytes > 2 * len(large + small)
    # The migrated tables are those of a new store.
    with contextlib.closing(Store(tmp_path / "new")):
        pass
    assert schema(tmp_path) == schema(tmp_path / "new")
    with contextlib.closing(Store(tmp_path, now=lambda: 2_000)) as store:
        assert store.sweep() == 4
        with store.reading() as connection:
            assert not connection.execute(tables.usage.select()).all()


def schema(folder: Path) -> set[tuple[str, str, str]]:
    """The names of a database's tables, indexes and triggers, with the columns of each table."""
    with contextlib.closing(sqlite3.connect(folder / "thetaprime.sqlite3")) as database:
        named = database.execute("SELECT type, name, tbl_name FROM sqlite_master").fetchall()
        columns = "SELECT m.name, c.name, c.type FROM sqlite_master m, pragma_table_info(m.name) c"
        return {*named, *database.execute(columns).fetchall()}
