"""SQLite with a write-ahead log: the database of one machine."""

import contextlib
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from thetaprime.server.errors import ServiceError, StartupError, StoreFailedError, UnavailableError
from thetaprime.server.store.database import Database
from thetaprime.server.store.errors import STORE_BUSY, database_failures, disk_failures, is_busy

FILE: Final = "thetaprime.sqlite3"
"""Name of the database in the store's folder."""
_BUSY_SECONDS: Final = 10.0
"""Longest wait of a writing transaction for other writers, of this process and of others together."""
_LOCKED_SECONDS: Final = 1.0
_BUSY_INFO: Final = "busy_tenths"
_LOG_BYTES: Final = 8 << 20
_VACUUMED_PAGES: Final = 1024


class SqliteDatabase(Database):
    """A database in a folder. Several processes on one machine may share it; one transaction writes at a time.

    Args:
        folder: the store's folder; it exists.
        prepare: creates or migrates the tables, in a writing transaction.
        beside: files and folders of the store that have to stay in place with the database.

    Raises:
        StartupError: the folder cannot be used, or the store has another schema version.
    """

    def __init__(self, folder: Path, prepare: Callable[[sa.Connection], None], beside: Collection[Path] = ()) -> None:
        # Without this lock, SQLite's writers poll for the database with pauses of up to 0.1 s.
        self._writer = threading.Lock()
        # Whether the last writer has waited in vain.
        self._locked = False
        self._folder = folder
        self._files = (folder / FILE, *beside)
        self._in_place: list[tuple[int, int]] | None = None
        # The pool grows with the threads that use it; the executors bound them.
        self._engine = sa.create_engine(
            f"sqlite:///{folder / FILE}",
            max_overflow=-1,
            connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False},
        )
        sa.event.listen(self._engine, "connect", _prepare_connection)
        sa.event.listen(self._engine, "begin", _begin)
        try:
            with self.writing() as connection:
                prepare(connection)
            self._in_place = self._files_at_path()
        except StartupError as error:
            self.close()
            raise StartupError(f"store {folder}: {error}") from error
        except (sa.exc.DatabaseError, ServiceError, OSError) as error:
            self.close()
            raise StartupError(f"store {folder}: {getattr(error, 'orig', error)}") from error

    def close(self) -> None:
        """As `Database.close`."""
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

    @contextlib.contextmanager
    def reading(self, *, snapshot: bool = True) -> Iterator[sa.Connection]:
        """As `Database.reading`."""
        self.check_in_place()
        with database_failures(), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self, *_tenants: str, blobs: Collection[str] = ()) -> Iterator[sa.Connection]:
        """As `Database.writing`. The transactions of all tenants run one after another."""
        self.check_in_place()
        with (
            database_failures(),
            # A transaction also deletes and writes blob files.
            disk_failures(),
            self._as_writer() as seconds,
            self._engine.connect().execution_options(writes=True, busy_seconds=seconds) as connection,
            connection.begin(),
        ):
            yield connection

    def check_clock(self) -> None:
        """As `Database.check_clock`: it is the same clock."""

    def compact_some(self) -> bool:
        """As `Database.compact_some`."""
        with self._writer, contextlib.closing(self._engine.raw_connection()) as connection:
            database = connection.driver_connection
            assert database is not None  # noqa: S101  # it was just checked out
            found = bool(database.execute("PRAGMA freelist_count").fetchone()[0])
            if found:
                # `execute` would stop after the statement's first page.
                database.executescript(f"PRAGMA incremental_vacuum({_VACUUMED_PAGES})")
        return found

    def problems(self, connection: sa.Connection) -> list[str]:
        """As `Database.problems`."""
        return [row for row in connection.exec_driver_sql("PRAGMA quick_check").scalars() if row != "ok"]

    def size(self) -> int:
        """As `Database.size`: of the file, its log and its index of the log."""
        return sum(path.stat().st_size for path in self._folder.glob(f"{FILE}*"))

    @contextlib.contextmanager
    def _as_writer(self) -> Iterator[float]:
        """Waits for the process's other writers; yields how many seconds are left to wait for those of other processes.

        After a wait that was in vain, the next ones are short until a writer has succeeded: calls that queue up behind
        a locked database would otherwise wait one after the other.

        Raises:
            UnavailableError: the wait was too long.
        """
        started, patience = time.monotonic(), _LOCKED_SECONDS if self._locked else _BUSY_SECONDS
        if not self._writer.acquire(timeout=patience):
            self._locked = True
            raise UnavailableError(STORE_BUSY, retry_after=1.0)
        try:
            yield max(patience - (time.monotonic() - started), 0.0)
            self._locked = False
        except sa.exc.OperationalError as error:
            self._locked = is_busy(error)
            raise
        finally:
            self._writer.release()

    def _files_at_path(self) -> list[tuple[int, int]]:
        """Returns the device and the inode of each file that has to stay in place."""
        found = [file.stat() for file in self._files]
        return [(each.st_dev, each.st_ino) for each in found]


def _prepare_connection(connection: sqlite3.Connection, _record: Any) -> None:
    # Turns off the driver's implicit transactions; `_begin` begins them.
    connection.isolation_level = None
    # Has an effect on an empty database only; on any other it would take the write lock in vain.
    if connection.execute("PRAGMA page_count").fetchone() == (0,):
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    # Without a limit, the write-ahead log keeps the size of the largest transaction.
    connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")


def _begin(connection: sa.Connection) -> None:
    # A transaction that upgrades from reading to writing can fail; one that locks immediately waits.
    options = connection.get_execution_options()
    # In tenths of a second: it changes rarely, and SQLite keeps it for the connection.
    tenths = math.ceil(10 * options.get("busy_seconds", _BUSY_SECONDS))
    if connection.info.get(_BUSY_INFO, math.ceil(10 * _BUSY_SECONDS)) != tenths:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {100 * tenths}")
        connection.info[_BUSY_INFO] = tenths
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("writes", False) else "BEGIN")
