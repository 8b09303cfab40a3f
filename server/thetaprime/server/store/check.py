"""Checks a store, and mends what can be mended without losing anything that was acknowledged.

Both are safe beside a running server: what is read is one snapshot of the database, and each repair holds the lock of
writers while it looks again and changes.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from thetaprime.server.errors import CorruptDataError, StartupError
from thetaprime.server.places import is_url
from thetaprime.server.store import tables
from thetaprime.server.store.expiry import named_blobs, unnamed_blob_rows
from thetaprime.server.store.location import BLOBS
from thetaprime.server.store.locks import lock_sessions
from thetaprime.server.store.sqlite import FILE
from thetaprime.server.store.store import ORPHAN_SECONDS, Store
from thetaprime.server.store.usage import Usage, recount

_sessions = tables.sessions
_CHILDREN: Final = (tables.uploads, tables.policies)


@dataclasses.dataclass(frozen=True)
class Finding:
    """One kind of problem.

    Attributes:
        kind: its name, for programs.
        problem: what is wrong, in words.
        count: how often.
        bytes: that it takes on the disk.
        mendable: whether `repair` mends it.
    """

    kind: str
    problem: str
    count: int
    bytes: int = 0
    mendable: bool = True


def open_store(place: Path | str, blobs: Path | str | None = None) -> Store:
    """Opens a store that exists.

    Args:
        place: its folder, or the URL of its PostgreSQL.
        blobs: folder or URL of its large blobs, as it is served.

    Raises:
        StartupError: the folder holds no store, or it cannot be opened.
    """
    if not is_url(place):
        folder = Path(place)
        for name, exists in (
            (FILE, (folder / FILE).is_file()),
            (BLOBS, blobs or (folder / BLOBS).is_dir()),
        ):
            if not exists:
                raise StartupError(f"{folder} holds no store: {name} is missing")
    return Store(place, blobs=blobs)


def check(store: Store) -> list[Finding]:
    """Returns what is wrong with a store; reads every blob.

    Raises:
        ServiceError: the store failed.
    """
    return [finding for finding in _findings(store) if finding.count]


def repair(store: Store) -> None:
    """Mends what `check` calls mendable: deletes what no row names, and counts again.

    Raises:
        ServiceError: the store failed.
    """
    with store.writing() as connection:
        for table in _CHILDREN:
            connection.execute(table.delete().where(_has_no_session(table)))
    store.sweep_orphans()
    with store.writing() as connection:
        lock_sessions(connection)
        for session_id, usage in _wrong_sessions(connection, store).items():
            counts = {"kept_bytes": usage.bytes, "kept_steps": usage.steps}
            connection.execute(_sessions.update().where(_sessions.c.session_id == session_id).values(counts))
        sums = _sums(connection)
        if sums != _usage(connection):
            connection.execute(tables.usage.delete())
            rows = [{"tenant": tenant, **dataclasses.asdict(usage)} for tenant, usage in sums.items()]
            if rows:
                connection.execute(tables.usage.insert(), rows)


def _findings(store: Store) -> Iterator[Finding]:
    files = {digest: store.blobs.size(digest) for digest in store.blobs.digests()}
    old = set(store.blobs.digests(older_than=ORPHAN_SECONDS))
    with store.reading() as connection:
        problems = store.database.problems(connection)
        lost = [_count(connection, table, _has_no_session(table)) for table in _CHILDREN]
        rows = unnamed_blob_rows(connection)
        sizes = {digest: _size(connection, digest) for digest in rows}
        named = named_blobs(connection)
        wrong = _wrong_sessions(connection, store)
        sums, usage = _sums(connection), _usage(connection)
    yield Finding("damaged_database", "problems that the database reports", len(problems), mendable=False)
    yield Finding("rows_without_session", "rows of sessions that are gone", sum(lost))
    yield Finding("unnamed_rows", "blobs in rows that no upload and no policy names", len(rows), sum(sizes.values()))
    unnamed = old - named
    yield Finding(
        "unnamed_files",
        "blobs in files that no upload and no policy names",
        len(unnamed),
        sum(files.get(digest, 0) for digest in unnamed),
    )
    fragments = list(store.blobs.fragments(older_than=ORPHAN_SECONDS))
    yield Finding("partial_files", "files that a crash left half written", len(fragments), sum(fragments))
    yield Finding("wrong_session_counts", "sessions whose counted bytes or steps differ from their rows", len(wrong))
    tenants = [tenant for tenant in {*sums, *usage} if sums.get(tenant) != usage.get(tenant)]
    yield Finding("wrong_tenant_counts", "tenants whose counts differ from those of their sessions", len(tenants))
    missing, damaged = _unreadable(store, named)
    yield Finding("missing_blobs", "blobs that an upload or a policy names, and that are missing", missing, 0, False)
    yield Finding("damaged_blobs", "blobs whose bytes do not have their digest", damaged, 0, False)


def _unreadable(store: Store, named: set[str]) -> tuple[int, int]:
    """Returns how many of the named blobs are missing, and how many are damaged."""
    unreadable = []
    for digest in named:
        # One transaction for each: a long one would keep the write-ahead log from being reused.
        try:
            store.read(digest)
        except CorruptDataError:
            unreadable.append(digest)
    with store.reading() as connection:
        # A sweep may have deleted some meanwhile.
        still = named_blobs(connection).intersection(unreadable)
        there = {digest for digest in still if _size(connection, digest) or digest in store.blobs}
    return len(still - there), len(there)


def _wrong_sessions(connection: sa.Connection, store: Store) -> dict[str, Usage]:
    """Returns the right counts of the sessions whose counts are wrong."""
    columns = (_sessions.c.session_id, _sessions.c.kept_bytes, _sessions.c.kept_steps)
    counted = {row.session_id: (row.kept_bytes, row.kept_steps) for row in connection.execute(sa.select(*columns))}
    right = recount(connection, store.blobs)
    return {each: usage for each, usage in right.items() if counted[each] != (usage.bytes, usage.steps)}


def _sums(connection: sa.Connection) -> dict[str, Usage]:
    sums = (sa.func.count(), sa.func.sum(_sessions.c.kept_bytes), sa.func.sum(_sessions.c.kept_steps))
    query = sa.select(_sessions.c.tenant, *sums).group_by(_sessions.c.tenant)
    return {tenant: Usage(*counts) for tenant, *counts in connection.execute(query)}


def _usage(connection: sa.Connection) -> dict[str, Usage]:
    usage = tables.usage.c
    query = sa.select(usage.tenant, usage.sessions, usage.bytes, usage.steps)
    return {tenant: Usage(*counts) for tenant, *counts in connection.execute(query)}


def _has_no_session(table: sa.Table) -> sa.ColumnElement[bool]:
    return ~sa.exists().where(_sessions.c.session_id == table.c.session_id)


def _count(connection: sa.Connection, table: sa.Table, condition: sa.ColumnElement[bool]) -> int:
    return connection.scalar(sa.select(sa.func.count()).select_from(table).where(condition)) or 0


def _size(connection: sa.Connection, digest: str) -> int:
    """Returns the bytes of a blob in a row; 0 where there is none."""
    query = sa.select(tables.byte_length(tables.blobs.c.data)).where(tables.blobs.c.sha256 == digest)
    return connection.scalar(query) or 0
