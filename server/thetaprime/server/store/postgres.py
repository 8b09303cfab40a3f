"""PostgreSQL: the database of any number of server processes, on any number of machines."""

import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from typing import Final

import sqlalchemy as sa

from thetaprime.server.errors import ServiceError, StartupError, StoreFailedError
from thetaprime.server.store.database import Database
from thetaprime.server.store.errors import database_failures, disk_failures
from thetaprime.server.store.locks import LOCK_SECONDS, begin_locked

DRIVER: Final = "postgresql+psycopg"
"""SQLAlchemy's name of the dialect and its driver."""
_MOST_CLOCK_SECONDS: Final = 60.0
_CONNECTION: Final = {
    "application_name": "thetaprime",
    "connect_timeout": 5,
    # A machine that fails, or a network that drops packets, ends a transaction after ten seconds.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    # Statements that the server prepares belong to a connection; behind PgBouncer, the next transaction has another.
    "prepare_threshold": None,
}


class PostgresDatabase(Database):
    """A database behind a URL.

    Transactions read what was committed before each statement (READ COMMITTED). An advisory lock by tenant, taken
    before the first statement, makes the transactions of a tenant run one after another; another one, by group of
    digests, does so for those that name or delete a blob. All locks end with their transaction, so PgBouncer may share
    connections between transactions.

    Each message to the database takes as long as the network: BEGIN travels with the locks, and a single statement that
    reads has no BEGIN.

    Args:
        url: SQLAlchemy's URL, with the driver psycopg. What it lacks, libpq takes from its environment variables.
        prepare: creates, migrates or checks the tables, in a writing transaction.
        connections: open connections at most. A transaction takes one, and waits for it where all are in use.

    Raises:
        StartupError: the database cannot be used, or loses what was committed when its machine fails.
    """

    def __init__(self, url: sa.URL, prepare: Callable[[sa.Connection], None], connections: int) -> None:
        self._name = url.render_as_string(hide_password=True)
        self._engine = sa.create_engine(
            url,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=LOCK_SECONDS,
            connect_args=_CONNECTION,
            # `writing` and `reading` begin and end transactions.
            isolation_level="AUTOCOMMIT",
        )
        try:
            with self._transaction(["schema"]) as connection:
                _require_durability(connection)
                prepare(connection)
        except StartupError as error:
            self.close()
            raise StartupError(f"store {self._name}: {error}") from error
        except (sa.exc.SQLAlchemyError, ServiceError) as error:
            self.close()
            raise StartupError(f"store {self._name}: {getattr(error, 'orig', error)}") from error

    def close(self) -> None:
        """As `Database.close`."""
        self._engine.dispose()

    def check_in_place(self) -> None:
        """As `Database.check_in_place`. A URL names the same database, wherever it moves."""

    @contextlib.contextmanager
    def reading(self, *, snapshot: bool = True) -> Iterator[sa.Connection]:
        """As `Database.reading`."""
        with database_failures(), self._engine.connect() as connection:
            if snapshot:
                connection.exec_driver_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            # The pool ends the transaction.
            yield connection

    @contextlib.contextmanager
    def writing(self, *tenants: str, blobs: Collection[str] = ()) -> Iterator[sa.Connection]:
        """As `Database.writing`."""
        locks = [f"tenant {each}" for each in tenants]
        with database_failures(), disk_failures(), self._transaction(locks, blobs) as connection:
            yield connection

    @contextlib.contextmanager
    def _transaction(self, locks: Collection[str], blobs: Collection[str] = ()) -> Iterator[sa.Connection]:
        with self._engine.connect() as connection:
            begin_locked(connection, locks, blobs)
            yield connection
            # After an error, the pool rolls back.
            connection.exec_driver_sql("COMMIT")

    def compact_some(self) -> bool:
        """As `Database.compact_some`. PostgreSQL does so by itself (autovacuum)."""
        return False

    def problems(self, connection: sa.Connection) -> list[str]:
        """As `Database.problems`: where the extension amcheck is installed, of its indexes."""
        if not connection.scalar(sa.text("SELECT count(*) FROM pg_extension WHERE extname = 'amcheck'")):
            return []
        indexes = "SELECT bt_index_check(indexrelid) FROM pg_stat_user_indexes WHERE schemaname = current_schema()"
        try:
            connection.exec_driver_sql(indexes)
        except sa.exc.DBAPIError as error:
            return [str(error.orig)]
        return []

    def size(self) -> int:
        """As `Database.size`."""
        with self.reading() as connection:
            return int(connection.scalar(sa.text("SELECT pg_database_size(current_database())")) or 0)

    def check_clock(self) -> None:
        """As `Database.check_clock`."""
        with self.reading() as connection:
            began = time.time()
            theirs = connection.scalar(sa.text("SELECT extract(epoch FROM clock_timestamp())"))
            ended = time.time()
        ahead = (began + ended) / 2 - float(theirs or 0.0)
        if abs(ahead) > _MOST_CLOCK_SECONDS + (ended - began) / 2:
            raise StoreFailedError(
                "STORE_FAILED", f"this machine's clock is {ahead:+.0f} s from the database's; set one of them"
            )


def _require_durability(connection: sa.Connection) -> None:
    """Checks that a commit is on the disk when it is acknowledged.

    Raises:
        StartupError: a setting of the server says otherwise.
    """
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        value = connection.scalar(sa.text(f"SHOW {setting}"))
        if value == "off":
            raise StartupError(f"{setting} is off, so acknowledged uploads could be lost; turn it on in the database")
