"""Orders the transactions of all server processes that share a PostgreSQL.

An advisory lock is a number that a transaction holds until it ends, whichever way it ends, so PgBouncer may share
connections between transactions. SQLite needs none: one transaction writes at a time.
See https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS
"""

import hashlib
from collections.abc import Collection, Iterable
from typing import Final

import sqlalchemy as sa

LOCK_SECONDS: Final = 10
"""Seconds that a transaction waits for a lock, of a row too."""
_STATEMENT_SECONDS: Final = 60
# Locks hold memory that all transactions of the database share, so blobs share the locks of these groups.
_BLOB_GROUPS: Final = 1024


def lock(connection: sa.Connection, *names: str) -> None:
    """Waits for the locks of these names, and limits how long the transaction waits for anything.

    A transaction takes its locks before it reads the rows that they protect.
    """
    if not _is_shared(connection):
        return
    limits = (("lock_timeout", LOCK_SECONDS), ("statement_timeout", _STATEMENT_SECONDS))
    commands = [f"SET LOCAL {setting} = '{seconds}s'" for setting, seconds in limits]
    # One message to the server. Each number was made here.
    connection.exec_driver_sql("; ".join([*commands, *_locking(names)]))


def lock_blobs(connection: sa.Connection, digests: Collection[str]) -> None:
    """Keeps other transactions from naming or deleting these blobs until this one ends.

    A transaction calls it once, for all its blobs: two that call it twice could wait for each other.
    """
    if digests and _is_shared(connection):
        groups = {f"blobs {int(digest[:8], 16) % _BLOB_GROUPS}" for digest in digests}
        connection.exec_driver_sql("; ".join(_locking(groups)))


def try_lock(connection: sa.Connection, name: str) -> bool:
    """Takes the lock of a name unless another transaction has it; returns whether this one has it now."""
    if not _is_shared(connection):
        return True
    return bool(connection.scalar(sa.text(f"SELECT pg_try_advisory_xact_lock({_key(name)})")))


def lock_sessions(connection: sa.Connection) -> None:
    """Keeps all other transactions from changing sessions until this one ends."""
    if _is_shared(connection):
        connection.exec_driver_sql("LOCK TABLE sessions, usage IN SHARE ROW EXCLUSIVE MODE")


def _is_shared(connection: sa.Connection) -> bool:
    return connection.dialect.name == "postgresql"


def _locking(names: Iterable[str]) -> list[str]:
    """Returns the statements that take locks, in an order that is the same in every transaction."""
    return [f"SELECT pg_advisory_xact_lock({key})" for key in sorted({_key(name) for name in names})]


def _key(name: str) -> int:
    """Returns the number of a lock: a signed integer of 64 bits."""
    return int.from_bytes(hashlib.sha256(f"thetaprime {name}".encode()).digest()[:8], "big", signed=True)
