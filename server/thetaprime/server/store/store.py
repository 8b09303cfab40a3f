"""The store: rows and small blobs in SQLite, large blobs in a folder beside it."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from thetaprime.server import failpoints
from thetaprime.server.config import RECENT_BYTES, ROW_BYTES
from thetaprime.server.errors import ServiceError, StartupError
from thetaprime.server.store import tables
from thetaprime.server.store.blobs import BlobStore, verified
from thetaprime.server.store.cache import RecentCache
from thetaprime.server.store.clock import may_delete_expired
from thetaprime.server.store.database import BLOBS, Database
from thetaprime.server.store.expiry import (
    SweptSession,
    delete_sessions,
    is_named,
    may_sweep,
    named_blobs,
    release,
    sweep_some,
    unnamed_blob_rows,
)
from thetaprime.server.store.schema import ensure_schema
from thetaprime.server.store.usage import blob_bytes

ORPHAN_SECONDS: Final = 3600.0
"""Age of an orphaned file. A younger one may be the blob of a row that another process is about to write."""
_ORPHANS_AT_ONCE: Final = 200

# Built once: building a statement takes as long as running it.
_INSERT_BLOB: Final = insert(tables.blobs).on_conflict_do_nothing()
_HAS_BLOB: Final = sa.select(sa.exists().where(tables.blobs.c.sha256 == sa.bindparam("digest")))
_READ_BLOB: Final = sa.select(tables.blobs.c.data).where(tables.blobs.c.sha256 == sa.bindparam("digest"))


def _microseconds() -> int:
    return time.time_ns() // 1000


class Store(Database):
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
        self._row_bytes = row_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.blobs = BlobStore(folder / BLOBS)
        except OSError as error:
            raise StartupError(f"store {folder}: {error.strerror}") from error
        super().__init__(folder, lambda connection: ensure_schema(connection, self.blobs))

    @contextlib.contextmanager
    def storing(self, blobs: Mapping[str, bytes]) -> Iterator[sa.Connection]:
        """`writing`, for a transaction that stores blobs with `keep`.

        Blobs that are files are written before, since it takes long, and deleted if no row names them afterwards.

        Args:
            blobs: bytes by digest.

        Raises:
            ServiceError: as `writing`.
        """
        files = [digest for digest, data in blobs.items() if not self.is_row(len(data))]
        self.prepare(blobs)
        try:
            with self.writing() as connection:
                yield connection
        finally:
            # A failing store cannot delete them either; the sweep of orphans will.
            with contextlib.suppress(ServiceError):
                self._release_unnamed(files)

    def is_row(self, size: int) -> bool:
        """Returns whether a new blob of so many bytes is a row of the database."""
        return size <= self._row_bytes

    def prepare(self, blobs: Mapping[str, bytes]) -> None:
        """Writes the blobs that are files.

        Args:
            blobs: bytes by digest.

        Raises:
            StoreFailedError: the disk is full, read-only or broken.
        """
        for data in blobs.values():
            if not self.is_row(len(data)):
                self.blobs.put(data)

    def keep(self, connection: sa.Connection, blobs: Mapping[str, bytes]) -> int:
        """Stores all blobs, in the `writing` transaction that inserts the rows that name them.

        A blob that the store has already stays where it is.

        Args:
            connection: the transaction's connection.
            blobs: the blobs that were given to `storing`; a sweep may have deleted a file since.

        Returns:
            The bytes that they take on the disk.
        """
        total = 0
        for digest, data in blobs.items():
            is_row = self.is_row(len(data)) and digest not in self.blobs
            if is_row:
                connection.execute(_INSERT_BLOB, {"sha256": digest, "data": data})
            elif connection.scalar(_HAS_BLOB, {"digest": digest}):
                is_row = True
            elif digest not in self.blobs:
                self.blobs.put(data)
            total += blob_bytes(len(data), is_row=is_row)
        return total

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
        total = self._sweep_all(on_swept)
        while self.vacuum_some():
            pass
        return total

    def sweep_tenant(self, tenant: str, on_swept: Callable[[SweptSession], object]) -> int:
        """Deletes what has expired of one tenant, between two sweeps, if the clock agrees with the last sweep.

        Args:
            tenant: the tenant.
            on_swept: called for each session after its transaction.

        Returns:
            The number of sessions.
        """
        with self.reading() as connection:
            now = self.now()
            if not (may_delete_expired(connection, now) and may_sweep(connection, now, tenant)):
                return 0
        return self._sweep_all(on_swept, tenant)

    def delete_sessions(self, connection: sa.Connection, swept: Sequence[SweptSession]) -> None:
        """Deletes sessions and all that only they name, in a `writing` transaction."""
        delete_sessions(connection, self.blobs, swept)

    def sweep_orphans(self) -> None:
        """Deletes what crashes left: blobs that no row names, in rows and in files, and partly written files."""
        self.blobs.delete_fragments(older_than=ORPHAN_SECONDS)
        files = set(self.blobs.digests(older_than=ORPHAN_SECONDS))
        # Other writers wait for a writing transaction: look for the orphans in a reading one, mostly in vain.
        with self.reading() as connection:
            orphans = [*unnamed_blob_rows(connection), *files.difference(named_blobs(connection) if files else ())]
        for begin in range(0, len(orphans), _ORPHANS_AT_ONCE):
            with self.writing() as connection:
                release(connection, self.blobs, orphans[begin : begin + _ORPHANS_AT_ONCE])

    def _sweep_all(self, on_swept: Callable[[SweptSession], object], tenant: str | None = None) -> int:
        total = 0
        while swept := self._sweep_some(tenant):
            total += len(swept)
            for each in swept:
                on_swept(each)
        return total

    def _sweep_some(self, tenant: str | None) -> list[SweptSession]:
        with self.writing() as connection:
            swept = sweep_some(connection, self.blobs, self.now(), tenant)
        failpoints.reach("sweep.committed")
        return swept

    def _release_unnamed(self, digests: Sequence[str]) -> None:
        if not digests:
            return
        with self.reading() as connection:
            unnamed = [each for each in digests if not is_named(connection, each)]
        if unnamed:
            with self.writing() as connection:
                release(connection, self.blobs, unnamed)
