"""Orders the transactions of all server processes that share a PostgreSQL.

An advisory lock is a number that a transaction holds until it ends, whichever way it ends, so PgBouncer may share
connections between transactions. A transaction takes its locks before it reads the rows that they protect. SQLite needs
none: one transaction writes at a time.
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


def begin_locked(connection: sa.Connection, names: Iterable[str], blobs: Collection[str] = ()) -> None:
    """Begins a writing transaction of PostgreSQL, and waits for the locks of these names and of these blobs.

    Limits how long the transaction waits for anything. One message to the server: each number was made here.

    Args:
        connection: without a transaction, in PostgreSQL's mode of automatic commits.
        names: the locks.
        blobs: as for `lock_blobs`.
    """
    limits = (("lock_timeout", LOCK_SECONDS), ("statement_timeout", _STATEMENT_SECONDS))
    settings = [f"set_config('{setting}', '{seconds}s', true)" for setting, seconds in limits]
    calls = ", ".join([*settings, *_locking(names), *_locking(_groups(blobs))])
    connection.exec_driver_sql(f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SELECT {calls}")


def lock_blobs(connection: sa.Connection, digests: Collection[str]) -> None:
    """Keeps other transactions from naming or deleting these blobs until this one ends.

    A transaction calls it once, for all its blobs, unless it begins with their locks: two that call it twice could wait
    for each other.
    """
    if digests and _is_shared(connection):
        connection.exec_driver_sql(f"SELECT {', '.join(_locking(_groups(digests)))}")


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


def _groups(digests: Iterable[str]) -> set[str]:
    return {f"blobs {int(digest[:8], 16) % _BLOB_GROUPS}" for digest in digests}


def _locking(names: Iterable[str]) -> list[str]:
    """Returns the calls that take locks, in an order that is the same in every transaction."""
    return [f"pg_advisory_xact_lock({key})" for key in sorted({_key(name) for name in names})]


def _key(name: str) -> int:
    """Returns the number of a lock: a signed integer of 64 bits."""
    return int.from_bytes(hashlib.sha256(f"thetaprime {name}".encode()).digest()[:8], "big", signed=True)
