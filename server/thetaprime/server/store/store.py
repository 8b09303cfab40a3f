"""The store: rows and small blobs in a database, large blobs beside it."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from thetaprime.server import failpoints
from thetaprime.server.config import RECENT_BYTES, ROW_BYTES, STORE_CONNECTIONS
from thetaprime.server.errors import ServiceError
from thetaprime.server.places import is_url
from thetaprime.server.store import tables
from thetaprime.server.store.blobs import verified
from thetaprime.server.store.cache import RecentCache
from thetaprime.server.store.clock import may_delete_expired
from thetaprime.server.store.expiry import (
    SweptSession,
    delete_sessions,
    is_named,
    may_sweep,
    named_blobs,
    release,
    sweep_some,
    tenants_to_sweep,
    unnamed_blob_rows,
)
from thetaprime.server.store.location import open_blobs, open_database
from thetaprime.server.store.retries import Retries, retried
from thetaprime.server.store.schema import ensure_schema, require_schema
from thetaprime.server.store.usage import blob_bytes
from thetaprime.server.store.writes import insert_blob

ORPHAN_SECONDS: Final = 3600.0
"""Age of an orphaned file. A younger one may be the blob of a row that another process is about to write."""
_ORPHANS_AT_ONCE: Final = 200

# Built once: building a statement takes as long as running it.
_HAS_BLOB: Final = sa.select(sa.exists().where(tables.blobs.c.sha256 == sa.bindparam("digest")))
_READ_BLOB: Final = sa.select(tables.blobs.c.data).where(tables.blobs.c.sha256 == sa.bindparam("digest"))


def _microseconds() -> int:
    return time.time_ns() // 1000


@dataclasses.dataclass(frozen=True)
class PlacedBlobs:
    """Where blobs belong.

    Attributes:
        rows: values of `writes.insert_blob`, for each that is a row.
        bytes: that all of them take on the disk.
    """

    rows: Sequence[Mapping[str, object]]
    bytes: int


class Store:
    """The durable state. Several processes may share it: those of one machine a folder, any others a PostgreSQL.

    A blob is durable before any row names it, or together with that row. A row is durable when `writing` ends without
    an error: what is acknowledged then survives a crash of the process and of the machine.

    Attributes:
        database: the rows and the small blobs.
        blobs: the payloads and ONNX files that are too large for a row.
        now: returns the time, in microseconds since 1970.
        recent: this process's cache of values computed from the store.
        retries: repeats transactions that ended with their connection.
    """

    def __init__(
        self,
        place: Path | str,
        now: Callable[[], int] = _microseconds,
        row_bytes: int = ROW_BYTES,
        recent_bytes: int = RECENT_BYTES,
        blobs: Path | str | None = None,
        *,
        upgrades: bool = False,
        connections: int = STORE_CONNECTIONS,
    ) -> None:
        """Opens a store. A folder is created, and its tables upgraded; those of a PostgreSQL only with `upgrades`.

        Args:
            place: the store's folder, or the URL of a PostgreSQL.
            now: returns the time, in microseconds since 1970.
            row_bytes: largest blob that is a row of the database; a larger one goes to `blobs`.
            recent_bytes: size of `recent` in bytes.
            blobs: folder or URL of the large blobs; None for the folder beside SQLite, and for rows in PostgreSQL.
            upgrades: whether to create or upgrade the tables of a PostgreSQL.
            connections: to a PostgreSQL, at most.

        Raises:
            StartupError: the store cannot be used, or has another schema version.
        """
        self.now = now
        self.recent = RecentCache(recent_bytes)
        self.retries = Retries()
        self.blobs = open_blobs(place, blobs)
        self._row_bytes = row_bytes if self.blobs.accepts else sys.maxsize

        def prepare(connection: sa.Connection) -> None:
            if upgrades or not is_url(place):
                ensure_schema(connection, self.blobs)
            else:
                require_schema(connection)

        self.database = open_database(place, self.blobs, prepare, connections)

    def close(self) -> None:
        """Closes the connections to the database."""
        self.database.close()

    @contextlib.contextmanager
    def reading(self, *, snapshot: bool = True) -> Iterator[sa.Connection]:
        """As `Database.reading`."""
        with self.database.reading(snapshot=snapshot) as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self, *tenants: str, blobs: Collection[str] = ()) -> Iterator[sa.Connection]:
        """As `Database.writing`."""
        with self.database.writing(*tenants, blobs=blobs) as connection:
            yield connection

    @contextlib.contextmanager
    def storing(self, blobs: Mapping[str, bytes], tenant: str) -> Iterator[sa.Connection]:
        """`writing`, for a transaction that stores blobs with `keep`, or with `place`.

        Blobs that are files are written before, since it takes long, and deleted if no row names them afterwards.

        Args:
            blobs: bytes by digest.
            tenant: whose rows name them.

        Raises:
            ServiceError: as `writing`.
        """
        files = [digest for digest, data in blobs.items() if not self.is_row(len(data))]
        self.prepare(blobs)
        try:
            with self.writing(tenant, blobs=blobs.keys()) as connection:
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
        placed = self.place(connection, blobs)
        for row in placed.rows:
            connection.execute(insert_blob(connection.dialect.name), row)
        return placed.bytes

    def place(self, connection: sa.Connection, blobs: Mapping[str, bytes]) -> PlacedBlobs:
        """Returns where blobs belong, for a caller that inserts their rows; `keep` does both.

        Args:
            connection: as for `keep`.
            blobs: as for `keep`.
        """
        rows, total = [], 0
        for digest, data in blobs.items():
            # Asking an object store takes long: it may keep a copy of a row, from a time of another limit.
            is_file = bool(self.blobs.folders) and digest in self.blobs
            is_row = self.is_row(len(data)) and not is_file
            if is_row:
                rows.append({"blob_sha256": digest, "blob_data": data})
            else:
                is_row = bool(connection.scalar(_HAS_BLOB, {"digest": digest}))
                if not is_row and not is_file and digest not in self.blobs:
                    self.blobs.put(data)
            total += blob_bytes(len(data), is_row=is_row)
        return PlacedBlobs(rows, total)

    @retried
    def read(self, digest: str) -> bytes:
        """Returns the bytes of a blob.

        Raises:
            CorruptDataError: the blob is missing or damaged.
            StoreFailedError: the disk is broken.
        """
        with self.reading(snapshot=False) as connection:
            data = connection.scalar(_READ_BLOB, {"digest": digest})
        return self.blobs.get(digest) if data is None else verified(digest, data)

    def read_in(self, connection: sa.Connection, digest: str) -> bytes:
        """Returns the bytes of a blob as a transaction sees it. An object store is read while the transaction waits.

        Raises:
            ServiceError: as `read`.
        """
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
        while self.database.compact_some():
            pass
        return total

    @retried
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
        if tenant is not None:
            tenants = [tenant]
        else:
            with self.reading() as connection:
                tenants = tenants_to_sweep(connection, self.now())
        if not tenants:
            return []
        with self.writing(*tenants) as connection:
            swept = sweep_some(connection, self.blobs, self.now(), tenants)
        failpoints.reach("sweep.committed")
        return swept

    def _release_unnamed(self, digests: Sequence[str]) -> None:
        if not digests:
            return
        # No snapshot: `release` looks again, under the locks.
        with self.reading(snapshot=False) as connection:
            unnamed = [each for each in digests if not is_named(connection, each)]
        if unnamed:
            with self.writing() as connection:
                release(connection, self.blobs, unnamed)
