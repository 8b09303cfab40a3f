"""Translates failures of the disk and of SQLite into errors of the service."""

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa

from thetaprime.server.errors import ServiceError, StoreFailedError, UnavailableError

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
    """Translates SQLite's errors.

    Raises:
        UnavailableError: the database is locked.
        StoreFailedError: the disk is full, read-only or broken.
    """
    try:
        yield
    except sa.exc.DBAPIError as error:
        translated = _translated(error)
        if translated is None:
            raise
        raise translated from error


def _translated(error: sa.exc.DBAPIError) -> ServiceError | None:
    # The low byte is the primary result code; the rest extends it.
    code = (getattr(error.orig, "sqlite_errorcode", None) or 0) & 0xFF
    if code in _BUSY:
        return UnavailableError("the store is busy", retry_after=1.0)
    reason = _REASONS_BY_SQLITE.get(code)
    return None if reason is None else StoreFailedError(reason, str(error.orig))
