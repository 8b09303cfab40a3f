"""Translates failures of the disk and of the database into errors of the service."""

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa

from thetaprime.server.errors import (
    InvalidRequestError,
    ServiceError,
    StoreFailedError,
    TransientError,
    UnavailableError,
)

_FULL, _READ_ONLY, _FAILED = "STORE_FULL", "STORE_READ_ONLY", "STORE_FAILED"
_REASONS_BY_ERRNO: Final = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _READ_ONLY,
    errno.EPERM: _READ_ONLY,
}
_REASONS_BY_SQLITE: Final = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_IOERR: _FAILED,
    sqlite3.SQLITE_CANTOPEN: _FAILED,
}
_BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
# Of PostgreSQL, by the beginning of the SQLSTATE; see https://www.postgresql.org/docs/current/errcodes-appendix.html.
_REASONS_BY_SQLSTATE: Final = {"53100": _FULL, "25006": _READ_ONLY, "53": _FAILED, "58": _FAILED, "XX": _FAILED}
# Locks and statements that took too long.
_BUSY_SQLSTATES: Final = ("55P03", "57014")
# Connections, serialization failures and deadlocks, a server that shuts down or starts.
_TRANSIENT_SQLSTATES: Final = ("08", "40", "53300", "57P")

STORE_BUSY: Final = "the store is busy"
"""Message of a call that has waited too long for other writers."""


@contextlib.contextmanager
def disk_failures() -> Iterator[None]:
    """Translates an OSError.

    Raises:
        StoreFailedError: in place of the OSError.
    """
    try:
        yield
    except OSError as error:
        code = error.errno or 0
        raise StoreFailedError(_REASONS_BY_ERRNO.get(code, _FAILED), os.strerror(code)) from error


@contextlib.contextmanager
def database_failures() -> Iterator[None]:
    """Translates the errors of SQLite and of PostgreSQL.

    Raises:
        UnavailableError: the database is locked.
        TransientError: the database is away, or another transaction was in the way.
        InvalidRequestError: a text holds the character NUL, which PostgreSQL cannot store.
        StoreFailedError: the disk is full, read-only or broken.
    """
    try:
        yield
    except sa.exc.TimeoutError as error:
        raise UnavailableError("the store is busy: all connections are in use", retry_after=1.0) from error
    except sa.exc.DBAPIError as error:
        translated = _translated(error)
        if translated is None:
            raise
        raise translated from error


def is_busy(error: sa.exc.DBAPIError) -> bool:
    """Returns whether SQLite's database is locked."""
    return _sqlite_code(error) in _BUSY


def _sqlite_code(error: sa.exc.DBAPIError) -> int:
    # The low byte is the primary result code; the rest extends it.
    return (getattr(error.orig, "sqlite_errorcode", None) or 0) & 0xFF


def _translated(error: sa.exc.DBAPIError) -> ServiceError | None:
    if isinstance(error.orig, sqlite3.Error):
        if is_busy(error):
            return UnavailableError(STORE_BUSY, retry_after=1.0)
        reason = _REASONS_BY_SQLITE.get(_sqlite_code(error))
        return None if reason is None else StoreFailedError(reason, str(error.orig))
    state = getattr(error.orig, "sqlstate", None) or ""
    if error.connection_invalidated or state.startswith(_TRANSIENT_SQLSTATES) or _cannot_connect(error):
        return TransientError("the database is busy or away", retry_after=0.5)
    if state.startswith(_BUSY_SQLSTATES):
        return UnavailableError("the database is busy or away", retry_after=0.5)
    if not state and "NUL" in str(error.orig):
        return InvalidRequestError("request", "a text holds the character NUL; expected text without it")
    reason = next((reason for start, reason in _REASONS_BY_SQLSTATE.items() if state.startswith(start)), None)
    return None if reason is None else StoreFailedError(reason, str(error.orig))


def _cannot_connect(error: sa.exc.DBAPIError) -> bool:
    return isinstance(error, sa.exc.OperationalError) and not getattr(error.orig, "sqlstate", None)
