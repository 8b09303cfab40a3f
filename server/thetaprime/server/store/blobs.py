"""Blobs outside the database, by their digest: durable once `put` returns, verified at each read."""

import abc
import os
import time
from collections.abc import Iterator
from pathlib import Path

from thetaprime.server import failpoints
from thetaprime.server.errors import CorruptDataError, StoreFailedError
from thetaprime.server.store.errors import disk_failures
from thetaprime.wire import sha256_hex


class Blobs(abc.ABC):
    """Blobs by SHA-256. Several processes may write the same blob; a reader finds the whole blob or none.

    Attributes:
        folders: the folders that hold them, where folders do.
        accepts: whether `put` takes any.
    """

    folders: tuple[Path, ...] = ()
    accepts: bool = True

    @abc.abstractmethod
    def put(self, data: bytes) -> str:
        """Stores a blob durably.

        Returns:
            Its SHA-256 (hex).

        Raises:
            StoreFailedError: the disk is full, read-only or broken, or the object store refused; nothing was stored.
            UnavailableError: the object store is away.
        """

    @abc.abstractmethod
    def __contains__(self, digest: str) -> bool: ...

    @abc.abstractmethod
    def get(self, digest: str) -> bytes:
        """Reads a blob.

        Raises:
            CorruptDataError: the blob is missing or damaged.
            StoreFailedError: the disk is broken, or the object store refused.
            UnavailableError: the object store is away.
        """

    @abc.abstractmethod
    def size(self, digest: str) -> int:
        """Returns the size of a blob in bytes; 0 where it does not exist.

        Raises:
            StoreFailedError: the disk is broken, or the object store refused.
            UnavailableError: the object store is away.
        """

    @abc.abstractmethod
    def delete(self, digest: str) -> None:
        """Deletes a blob, if it exists."""

    @abc.abstractmethod
    def digests(self, *, older_than: float = 0.0) -> Iterator[str]:
        """Iterates over the digests of blobs that were written at least `older_than` seconds ago."""

    @abc.abstractmethod
    def fragments(self, *, older_than: float) -> Iterator[int]:
        """Iterates over the sizes of partly written blobs that are at least `older_than` seconds old."""

    @abc.abstractmethod
    def delete_fragments(self, *, older_than: float) -> None:
        """Deletes partly written blobs that are at least `older_than` seconds old: crashes leave them."""


class BlobFolder(Blobs):
    """Blobs by SHA-256, as files ``<folder>/<first two digits>/<digest>``.

    A file is written under another name and renamed, so a reader finds the whole blob or none, and several processes
    may write the same blob.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.folders = (folder,)
        self._arriving = folder / "arriving"
        self._arriving.mkdir(parents=True, exist_ok=True)
        for prefix in range(256):
            (folder / f"{prefix:02x}").mkdir(exist_ok=True)
        _sync_directory(folder)

    def put(self, data: bytes) -> str:
        """As `Blobs.put`."""
        digest = sha256_hex(data)
        with disk_failures():
            self._put(digest, data)
        return digest

    def _put(self, digest: str, data: bytes) -> None:
        path = self._path(digest)
        if digest not in self:
            arriving = self._arriving / f"{digest}.{os.urandom(8).hex()}"
            try:
                with arriving.open("xb") as file:
                    failpoints.reach("blob.opened")
                    file.write(data[: len(data) // 2])
                    file.flush()
                    failpoints.reach("blob.half")
                    file.write(data[len(data) // 2 :])
                    file.flush()
                    os.fsync(file.fileno())
                failpoints.reach("blob.synced")
                arriving.replace(path)
                failpoints.reach("blob.renamed")
            finally:
                arriving.unlink(missing_ok=True)
        # Also where the blob exists: another process may have renamed it and not synced the directory yet.
        _sync_directory(path.parent)
        failpoints.reach("blob.durable")

    def __contains__(self, digest: str) -> bool:
        return self._path(digest).exists()

    def get(self, digest: str) -> bytes:
        """As `Blobs.get`."""
        with disk_failures():
            try:
                data = self._path(digest).read_bytes()
            except FileNotFoundError as error:
                raise CorruptDataError("STORE_CORRUPTED", f"the server has lost blob {digest}") from error
        return verified(digest, data)

    def size(self, digest: str) -> int:
        """As `Blobs.size`."""
        with disk_failures():
            try:
                return self._path(digest).stat().st_size
            except FileNotFoundError:
                return 0

    def delete(self, digest: str) -> None:
        """As `Blobs.delete`."""
        self._path(digest).unlink(missing_ok=True)

    def digests(self, *, older_than: float = 0.0) -> Iterator[str]:
        """As `Blobs.digests`."""
        latest = time.time() - older_than
        for path in self._folder.glob("[0-9a-f][0-9a-f]/*"):
            if path.stat().st_mtime <= latest:
                yield path.name

    def fragments(self, *, older_than: float) -> Iterator[int]:
        """As `Blobs.fragments`."""
        latest = time.time() - older_than
        for path in self._arriving.iterdir():
            found = path.stat()
            if found.st_mtime <= latest:
                yield found.st_size

    def delete_fragments(self, *, older_than: float) -> None:
        """As `Blobs.delete_fragments`."""
        latest = time.time() - older_than
        for path in self._arriving.iterdir():
            if path.stat().st_mtime <= latest:
                path.unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest


class NoBlobs(Blobs):
    """Nothing outside the database: every blob is a row."""

    accepts = False

    def put(self, data: bytes) -> str:
        """Refuses: no blob is too large for a row."""
        raise StoreFailedError("STORE_FAILED", "the store has no place for blobs outside the database")

    def __contains__(self, digest: str) -> bool:
        return False

    def get(self, digest: str) -> bytes:
        """As `Blobs.get`."""
        raise CorruptDataError("STORE_CORRUPTED", f"the server has lost blob {digest}")

    def size(self, digest: str) -> int:
        """As `Blobs.size`."""
        return 0

    def delete(self, digest: str) -> None:
        """As `Blobs.delete`."""

    def digests(self, *, older_than: float = 0.0) -> Iterator[str]:
        """As `Blobs.digests`."""
        yield from ()

    def fragments(self, *, older_than: float) -> Iterator[int]:
        """As `Blobs.fragments`."""
        yield from ()

    def delete_fragments(self, *, older_than: float) -> None:
        """As `Blobs.delete_fragments`."""


def verified(digest: str, data: bytes) -> bytes:
    """Returns the bytes, if they have the digest.

    Raises:
        CorruptDataError: they have another digest.
    """
    if sha256_hex(data) != digest:
        raise CorruptDataError("STORE_CORRUPTED", f"the server's blob {digest} is damaged")
    return data


def _sync_directory(directory: Path) -> None:
    """Makes renames within a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
