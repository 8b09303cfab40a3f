"""Where a store lies: a folder, or the URLs of a database and of an object store."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from thetaprime.server.errors import StartupError
from thetaprime.server.places import is_url, without_password
from thetaprime.server.store.blobs import BlobFolder, Blobs, NoBlobs
from thetaprime.server.store.database import Database
from thetaprime.server.store.sqlite import SqliteDatabase

BLOBS: Final = "blobs"
"""Name of the folder of blobs in a store's folder."""
_POSTGRES: Final = ("postgresql", "postgres", "postgresql+psycopg")


def open_blobs(store: str | Path, blobs: str | Path | None) -> Blobs:
    """Opens the place of large blobs.

    Args:
        store: the store's folder or URL.
        blobs: a folder, or the URL of an object store; None for the folder beside SQLite's database, and for none
            beside PostgreSQL.

    Raises:
        StartupError: the folder cannot be used, or the URL is none of an object store.
    """
    if blobs is None and is_url(store):
        return NoBlobs()
    if blobs is not None and is_url(blobs):
        with _requiring("objects"):
            from thetaprime.server.store.bucket import SCHEMES, BlobBucket
        if str(blobs).partition("://")[0] not in SCHEMES:
            raise StartupError(
                f"blobs {without_password(blobs)}: expected a folder, or a URL that begins with s3://, gs:// or az://"
            )
        return BlobBucket(str(blobs))
    folder = Path(store) / BLOBS if blobs is None else Path(blobs)
    with _creating(folder):
        return BlobFolder(folder)


def open_database(
    store: str | Path, blobs: Blobs, prepare: Callable[[sa.Connection], None], connections: int
) -> Database:
    """Opens the database of a store.

    Args:
        store: the store's folder or URL.
        blobs: its large blobs.
        prepare: creates, migrates or checks the tables, in a writing transaction.
        connections: to a PostgreSQL, at most.

    Raises:
        StartupError: it cannot be used.
    """
    if not is_url(store):
        folder = Path(store)
        with _creating(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return SqliteDatabase(folder, prepare, blobs.folders)
    from thetaprime.server.store.postgres import PostgresDatabase

    with _requiring("postgres"):
        return PostgresDatabase(_database_url(str(store)), prepare, connections)


@contextlib.contextmanager
def _creating(folder: Path) -> Iterator[None]:
    """Translates the failures of a folder that is created or opened.

    Raises:
        StartupError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise StartupError(f"store {folder}: {error.strerror}") from error


@contextlib.contextmanager
def _requiring(extra: str) -> Iterator[None]:
    """Translates the lack of a library that only some stores need.

    Raises:
        StartupError: it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise StartupError(f"{error.name} is not installed: pip install 'thetaprime[server,{extra}]'") from error


def _database_url(text: str) -> sa.URL:
    """Returns the URL of a database, with our driver.

    Raises:
        StartupError: the text is no URL of PostgreSQL.
    """
    from thetaprime.server.store.postgres import DRIVER

    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise StartupError(f"store: not the URL of a database: {error}") from error
    if url.drivername not in _POSTGRES:
        raise StartupError(
            f"store {url.drivername}://…: expected a folder, or a URL postgresql://user@host/database; "
            "SQLite is a folder"
        )
    return url.set(drivername=DRIVER)
