"""Where the service's state lives: rows in SQLite with the bytes that are small, large ones in a folder beside it."""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from thetaprime.server import failpoints
from thetaprime.server.errors import ServiceError, StartupError
from thetaprime.server.store import migrations, tables
from thetaprime.server.store.blobs import BlobStore, verified
from thetaprime.server.store.cache import RECENT_BYTES, Recent
from thetaprime.server.store.errors import database_failures, disk_failures
from thetaprime.server.store.expiry import SweptSession, release, sweep_some

_BUSY_SECONDS: Final = 10.0
# A process that writes a blob or its row now must not have it swept away by another one that starts.
_SETTLED_SECONDS: Final = 3600.0
_GIVEN_BACK_PAGES: Final = 4096

# Built once: building a statement takes as long as running it.
_KEEP: Final = insert(tables.blobs).on_conflict_do_nothing()
_READ: Final = sa.select(tables.blobs.c.data).where(tables.blobs.c.sha256 == sa.bindparam("digest"))

ROW_BYTES: Final = 1 << 20
"""Default of the most bytes that a blob in a row has."""


def _microseconds() -> int:
    return time.time_ns() // 1000


class Store:
    """The durable state. Several processes on one machine may share its folder.

    A blob is durable before any row names it or together with that row, and a row is durable when `writing` ends
    without an error: what is acknowledged after that survives a crash of the process or of the machine.

    Attributes:
        blobs: the payloads and ONNX files that are too large for a row.
        now: the time, in microseconds since 1970.
        recent: what this process lately made of what is stored.
    """

    def __init__(
        self,
        folder: Path,
        now: Callable[[], int] = _microseconds,
        row_bytes: int = ROW_BYTES,
        recent_bytes: int = RECENT_BYTES,
    ) -> None:
        """Opens a store, or makes one.

        Args:
            folder: where it lies.
            now: the time, in microseconds since 1970.
            row_bytes: a blob of up to so many bytes lies in the database; a larger one is a file.
            recent_bytes: most bytes that `recent` holds.

        Raises:
            StartupError: the folder cannot be used, or its schema is another version's.
        """
        self.now = now
        self.recent = Recent(recent_bytes)
        # SQLite has its writers ask again and again, with pauses of up to a tenth of a second; here they wait in line.
        self._writer = threading.Lock()
        self._row_bytes = row_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.blobs = BlobStore(folder / "blobs")
        except OSError as error:
            raise StartupError(f"store {folder}: {error.strerror}") from error
        # The pool may grow with the threads that use it; their number is bounded elsewhere.
        self._engine = sa.create_engine(
            f"sqlite:///{folder / 'thetaprime.sqlite3'}",
            max_overflow=-1,
            connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False},
        )
        sa.event.listen(self._engine, "connect", _prepare_connection)
        sa.event.listen(self._engine, "begin", _begin)
        try:
            self._ensure_schema(folder)
        except (sa.exc.DatabaseError, ServiceError) as error:
            self.close()
            raise StartupError(f"store {folder}: {getattr(error, 'orig', error)}") from error

    def close(self) -> None:
        """Closes the database's connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state throughout and changes nothing."""
        with database_failures(), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that no other one writes beside; durable when it ends without an error.

        Raises:
            UnavailableError: other processes kept the database locked for too long.
            StoreFailedError: the disk is full, read-only or broken; nothing was changed.
        """
        with (
            database_failures(),
            # Blobs are deleted, and sometimes written again, beside the rows.
            disk_failures(),
            self._writer,
            self._engine.connect().execution_options(writes=True) as connection,
            connection.begin(),
        ):
            yield connection

    def prepare(self, blobs: Mapping[str, bytes]) -> None:
        """Before `writing`: makes those durable that are files, which takes a while.

        Args:
            blobs: bytes by their digest.

        Raises:
            StoreFailedError: the disk is full, read-only or broken.
        """
        for data in blobs.values():
            if len(data) > self._row_bytes:
                self.blobs.put(data)

    def keep(self, connection: sa.Connection, blobs: Mapping[str, bytes]) -> None:
        """Within `writing`, beside the rows that name these blobs: keeps them all.

        Args:
            connection: of the transaction.
            blobs: what `prepare` was given; a sweep may have taken a file again since.
        """
        for digest, data in blobs.items():
            if len(data) <= self._row_bytes:
                connection.execute(_KEEP, {"sha256": digest, "data": data})
            elif digest not in self.blobs:
                self.blobs.put(data)

    def read(self, digest: str) -> bytes:
        """The bytes of a blob.

        Raises:
            CorruptDataError: it is gone, or is not what was stored.
            StoreFailedError: the disk is broken.
        """
        with self.reading() as connection:
            data = connection.scalar(_READ, {"digest": digest})
        return self.blobs.get(digest) if data is None else verified(digest, data)

    def sweep(self, on_gone: Callable[[SweptSession], object] = lambda gone: None) -> int:
        """Clears out expired sessions, and the blobs that only they needed.

        Args:
            on_gone: told of each once its transaction is over.

        Returns:
            The number of sessions that something was cleared out of.
        """
        self.recent.expire()
        total = 0
        while gone := self._sweep_some():
            total += len(gone)
            for each in gone:
                on_gone(each)
        if total:
            # Some of the pages that are free now go back to the disk; the rest is used again.
            with contextlib.closing(self._engine.raw_connection()) as connection:
                # A script is run to its end; of a statement without columns the driver runs the first page alone.
                connection.driver_connection.executescript(f"PRAGMA incremental_vacuum({_GIVEN_BACK_PAGES})")  # type: ignore[union-attr]
        return total

    def sweep_orphans(self) -> None:
        """Deletes what crashes left behind: blobs that were never acknowledged, and halves of files."""
        self.blobs.delete_fragments(older_than=_SETTLED_SECONDS)
        with self.writing() as connection:
            release(connection, self.blobs, set(self.blobs.digests(older_than=_SETTLED_SECONDS)))

    def _sweep_some(self) -> list[SweptSession]:
        with self.writing() as connection:
            gone = sweep_some(connection, self.blobs, self.now())
        failpoints.reach("sweep.committed")
        return gone

    def _ensure_schema(self, folder: Path) -> None:
        with self.writing() as connection:
            migrations.migrate(connection, self.blobs)
            tables.metadata.create_all(connection)
            failpoints.reach("start.schema")
            version = connection.scalar(sa.select(tables.schema_info.c.version))
            if version is None:
                connection.execute(tables.schema_info.insert().values(version=tables.SCHEMA_VERSION))
            elif version != tables.SCHEMA_VERSION:
                raise StartupError(
                    f"store {folder}: schema version {version}; this server reads version {tables.SCHEMA_VERSION}"
                )


def _prepare_connection(connection: sqlite3.Connection, _record: Any) -> None:
    # The driver's own idea of when a transaction begins is turned off; `_begin` says it.
    connection.isolation_level = None
    # Only an empty database takes this; any other one would ask for the write lock first, to no end.
    if connection.execute("PRAGMA page_count").fetchone() == (0,):
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin(connection: sa.Connection) -> None:
    # A transaction that reads first and asks for the write lock later can be refused it; one that asks at once waits.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
