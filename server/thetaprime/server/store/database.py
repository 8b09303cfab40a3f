"""The store: rows and small blobs in SQLite, large blobs in a folder beside it."""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from thetaprime.server import failpoints
from thetaprime.server.config import RECENT_BYTES, ROW_BYTES
from thetaprime.server.errors import ServiceError, StartupError, StoreFailedError
from thetaprime.server.store import tables
from thetaprime.server.store.blobs import BlobStore, verified
from thetaprime.server.store.cache import RecentCache
from thetaprime.server.store.errors import database_failures, disk_failures
from thetaprime.server.store.expiry import (
    SweptSession,
    delete_sessions,
    named_blobs,
    release,
    sweep_some,
    unnamed_blob_rows,
)

_BUSY_SECONDS: Final = 10.0
# Age of an orphaned blob. A younger one may be the blob of a row that another process is about to write.
_ORPHAN_SECONDS: Final = 3600.0
_ORPHANS_AT_ONCE: Final = 200
_VACUUMED_PAGES: Final = 4096

# Built once: building a statement takes as long as running it.
_INSERT_BLOB: Final = insert(tables.blobs).on_conflict_do_nothing()
_READ_BLOB: Final = sa.select(tables.blobs.c.data).where(tables.blobs.c.sha256 == sa.bindparam("digest"))


def _microseconds() -> int:
    return time.time_ns() // 1000


class Store:
    """The durable state. Several processes on one machine may share its folder.

    A blob is durable before any row names it, or together with that row. A row is durable when `writing` ends without
    an error: what is acknowledged then survives a crash of the process and of the machine.

    Attributes:
        blobs: the payloads and ONNX files that are too large for a row.
        now: returns the time, in microseconds since 1970.
        recent: this process's cache of values computed from the store.
    """

    def __init__(
        self,
        folder: Path,
        now: Callable[[], int] = _microseconds,
        row_bytes: int = ROW_BYTES,
        recent_bytes: int = RECENT_BYTES,
    ) -> None:
        """Opens or creates a store.

        Args:
            folder: the store's folder.
            now: returns the time, in microseconds since 1970.
            row_bytes: largest blob that is a row of the database; a larger blob is a file.
            recent_bytes: size of `recent` in bytes.

        Raises:
            StartupError: the folder cannot be used, or the store has another schema version.
        """
        self.now = now
        self.recent = RecentCache(recent_bytes)
        # Without this lock, SQLite's writers poll for the database with pauses of up to 0.1 s.
        self._writer = threading.Lock()
        self._row_bytes = row_bytes
        self._folder = folder
        self._in_place: list[tuple[int, int]] | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.blobs = BlobStore(folder / "blobs")
        except OSError as error:
            raise StartupError(f"store {folder}: {error.strerror}") from error
        # The pool grows with the threads that use it; the executors bound them.
        self._engine = sa.create_engine(
            f"sqlite:///{folder / 'thetaprime.sqlite3'}",
            max_overflow=-1,
            connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False},
        )
        sa.event.listen(self._engine, "connect", _prepare_connection)
        sa.event.listen(self._engine, "begin", _begin)
        try:
            self._ensure_schema(folder)
            self._in_place = self._files_at_path()
        except StartupError:
            self.close()
            raise
        except (sa.exc.DatabaseError, ServiceError, OSError) as error:
            self.close()
            raise StartupError(f"store {folder}: {getattr(error, 'orig', error)}") from error

    def close(self) -> None:
        """Closes the database's connections."""
        self._engine.dispose()

    def check_in_place(self) -> None:
        """Checks that the store's folder still holds the files that this server opened.

        Raises:
            StoreFailedError: the folder was moved, deleted or replaced. A write would be lost at the next start.
        """
        with disk_failures():
            moved = self._in_place is not None and self._files_at_path() != self._in_place
        if moved:
            raise StoreFailedError("STORE_FAILED", f"{self._folder} no longer holds the files that the server opened")

    def _files_at_path(self) -> list[tuple[int, int]]:
        """Returns the device and the inode of the database and of the folder of blobs."""
        found = [(self._folder / name).stat() for name in ("thetaprime.sqlite3", "blobs")]
        return [(each.st_dev, each.st_ino) for each in found]

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A read-only transaction, which sees one snapshot.

        Raises:
            StoreFailedError: the disk is broken, or the store's folder was moved.
        """
        self.check_in_place()
        with database_failures(), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """An exclusive writing transaction; durable when it ends without an error.

        Raises:
            UnavailableError: another process kept the database locked for 10 seconds.
            StoreFailedError: the disk is full, read-only or broken, or the store's folder was moved; nothing was
                changed.
        """
        self.check_in_place()
        with (
            database_failures(),
            # A transaction also deletes and writes blob files.
            disk_failures(),
            self._writer,
            self._engine.connect().execution_options(writes=True) as connection,
            connection.begin(),
        ):
            yield connection

    def prepare(self, blobs: Mapping[str, bytes]) -> None:
        """Writes the blobs that are files. Call it before `writing`, since it takes long.

        Args:
            blobs: bytes by digest.

        Raises:
            StoreFailedError: the disk is full, read-only or broken.
        """
        for data in blobs.values():
            if len(data) > self._row_bytes:
                self.blobs.put(data)

    def keep(self, connection: sa.Connection, blobs: Mapping[str, bytes]) -> None:
        """Stores all blobs, in the `writing` transaction that inserts the rows that name them.

        Args:
            connection: the transaction's connection.
            blobs: the blobs that were given to `prepare`; a sweep may have deleted a file since.
        """
        for digest, data in blobs.items():
            if len(data) <= self._row_bytes:
                connection.execute(_INSERT_BLOB, {"sha256": digest, "data": data})
            elif digest not in self.blobs:
                self.blobs.put(data)

    def read(self, digest: str) -> bytes:
        """Returns the bytes of a blob.

        Raises:
            CorruptDataError: the blob is missing or damaged.
            StoreFailedError: the disk is broken.
        """
        with self.reading() as connection:
            data = connection.scalar(_READ_BLOB, {"digest": digest})
        return self.blobs.get(digest) if data is None else verified(digest, data)

    def sweep(self, on_swept: Callable[[SweptSession], object] = lambda swept: None) -> int:
        """Deletes the data of expired sessions, and the blobs that no other session names.

        Args:
            on_swept: called for each session after its transaction.

        Returns:
            The number of sessions.
        """
        self.recent.expire()
        total = 0
        while swept := self._sweep_some():
            total += len(swept)
            for each in swept:
                on_swept(each)
        if total:
            # Returns some free pages to the disk; the rest is reused.
            with contextlib.closing(self._engine.raw_connection()) as connection:
                # `execute` would stop after the statement's first page.
                connection.driver_connection.executescript(f"PRAGMA incremental_vacuum({_VACUUMED_PAGES})")  # type: ignore[union-attr]
        return total

    def delete_sessions(self, connection: sa.Connection, swept: Sequence[SweptSession]) -> None:
        """Deletes sessions and all that only they name, in a `writing` transaction."""
        delete_sessions(connection, self.blobs, swept)

    def sweep_orphans(self) -> None:
        """Deletes what crashes left: blobs that no row names, in rows and in files, and partly written files."""
        self.blobs.delete_fragments(older_than=_ORPHAN_SECONDS)
        files = set(self.blobs.digests(older_than=_ORPHAN_SECONDS))
        # Other writers wait for a writing transaction: look for the orphans in a reading one, mostly in vain.
        with self.reading() as connection:
            orphans = [*unnamed_blob_rows(connection), *files.difference(named_blobs(connection) if files else ())]
        for begin in range(0, len(orphans), _ORPHANS_AT_ONCE):
            with self.writing() as connection:
                release(connection, self.blobs, orphans[begin : begin + _ORPHANS_AT_ONCE])

    def _sweep_some(self) -> list[SweptSession]:
        with self.writing() as connection:
            swept = sweep_some(connection, self.blobs, self.now())
        failpoints.reach("sweep.committed")
        return swept

    def _ensure_schema(self, folder: Path) -> None:
        """Creates the tables of a new store, or checks the schema version of an existing one."""
        with self.writing() as connection:
            if sa.inspect(connection).has_table(tables.schema_info.name):
                version = connection.scalar(sa.select(tables.schema_info.c.version))
                if version != tables.SCHEMA_VERSION:
                    newer = version is not None and version > tables.SCHEMA_VERSION
                    remedy = "upgrade thetaprime" if newer else "use another folder"
                    raise StartupError(
                        f"store {folder}: schema version {version}; this server reads version {tables.SCHEMA_VERSION}: "
                        f"{remedy}"
                    )
                _add_what_is_missing(connection)
                return
            tables.metadata.create_all(connection)
            failpoints.reach("start.schema")
            connection.execute(tables.schema_info.insert().values(version=tables.SCHEMA_VERSION))


def _add_what_is_missing(connection: sa.Connection) -> None:
    """Adds what a store of this schema version lacks if it is older: tables, and columns that may be NULL."""
    tables.metadata.create_all(connection)
    inspector = sa.inspect(connection)
    for table in tables.metadata.sorted_tables:
        present = {column["name"] for column in inspector.get_columns(table.name)}
        for column in table.columns:
            if column.name not in present:
                kind = column.type.compile(connection.dialect)
                connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}")


def _prepare_connection(connection: sqlite3.Connection, _record: Any) -> None:
    # Turns off the driver's implicit transactions; `_begin` begins them.
    connection.isolation_level = None
    # Has an effect on an empty database only; on any other it would take the write lock in vain.
    if connection.execute("PRAGMA page_count").fetchone() == (0,):
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin(connection: sa.Connection) -> None:
    # A transaction that upgrades from reading to writing can fail; one that locks immediately waits.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
