"""Content-addressed bytes in a folder: durable once `put` returns, and checked whenever they are read."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from thetaprime.server import failpoints
from thetaprime.server.errors import CorruptDataError
from thetaprime.server.store.errors import disk_failures
from thetaprime.wire import sha256_hex


class BlobStore:
    """Bytes under their SHA-256: ``<folder>/<first two digits>/<digest>``.

    A file is written beside its place and renamed into it, so that a reader finds the whole blob or none, and
    several processes may write the same one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arriving = folder / "arriving"
        self._arriving.mkdir(parents=True, exist_ok=True)
        for prefix in range(256):
            (folder / f"{prefix:02x}").mkdir(exist_ok=True)
        _sync_directory(folder)

    def put(self, data: bytes) -> str:
        """Stores bytes; they survive a crash from here on.

        Returns:
            Their SHA-256 (hex).

        Raises:
            StoreFailedError: the disk is full, read-only or broken; nothing was stored.
        """
        digest = sha256_hex(data)
        with disk_failures():
            self._put(digest, data)
        return digest

    def _put(self, digest: str, data: bytes) -> None:
        place = self._place(digest)
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
                arriving.replace(place)
                failpoints.reach("blob.renamed")
            finally:
                arriving.unlink(missing_ok=True)
        # Also for a blob that was there: whoever is writing it may not have come this far yet.
        _sync_directory(place.parent)
        failpoints.reach("blob.durable")

    def __contains__(self, digest: str) -> bool:
        return self._place(digest).exists()

    def get(self, digest: str) -> bytes:
        """Reads bytes back.

        Raises:
            CorruptDataError: the file is gone, or is not what was stored.
            StoreFailedError: the disk is broken.
        """
        with disk_failures():
            try:
                data = self._place(digest).read_bytes()
            except FileNotFoundError as error:
                raise CorruptDataError("STORE_CORRUPTED", f"the server has lost blob {digest}") from error
        return verified(digest, data)

    def size(self, digest: str) -> int:
        """The length of a blob in bytes; 0 where there is none.

        Raises:
            StoreFailedError: the disk is broken.
        """
        with disk_failures():
            try:
                return self._place(digest).stat().st_size
            except FileNotFoundError:
                return 0

    def delete(self, digest: str) -> None:
        """Forgets bytes; no error where there are none."""
        self._place(digest).unlink(missing_ok=True)

    def digests(self, *, older_than: float = 0.0) -> Iterator[str]:
        """The blobs that were written at least `older_than` seconds ago."""
        latest = time.time() - older_than
        for path in self._folder.glob("[0-9a-f][0-9a-f]/*"):
            if path.stat().st_mtime <= latest:
                yield path.name

    def delete_fragments(self, *, older_than: float) -> None:
        """Removes what crashes left half-written, `older_than` seconds ago or longer."""
        latest = time.time() - older_than
        for path in self._arriving.iterdir():
            if path.stat().st_mtime <= latest:
                path.unlink(missing_ok=True)

    def _place(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest


def verified(digest: str, data: bytes) -> bytes:
    """The bytes, if they are those that were stored under a digest.

    Raises:
        CorruptDataError: they are not.
    """
    if sha256_hex(data) != digest:
        raise CorruptDataError("STORE_CORRUPTED", f"the server's blob {digest} is damaged")
    return data


def _sync_directory(directory: Path) -> None:
    """Makes a rename within a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
