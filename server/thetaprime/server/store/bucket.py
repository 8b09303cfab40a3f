"""Blobs in an object store: S3 and what speaks its protocol, Google Cloud Storage, Azure."""

import contextlib
import datetime
import time
from collections.abc import Iterator
from typing import Final

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import from_url

from thetaprime.server.errors import CorruptDataError, StartupError, StoreFailedError, UnavailableError
from thetaprime.server.store.blobs import Blobs, verified
from thetaprime.wire import sha256_hex

SCHEMES: Final = ("s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss")
"""Schemes of the URLs that `BlobBucket` takes."""
_CALL: Final = datetime.timedelta(seconds=5)
_RETRIES: Final = 4
_MISSING: Final = (FileNotFoundError, NotFoundError)


class BlobBucket(Blobs):
    """Blobs by SHA-256, as objects ``<prefix>/<first two digits>/<digest>``.

    An object appears whole, and only where none has its name (a conditional put), so several processes may write the
    same blob. Credentials and region come from the environment, as for the provider's own tools.

    Args:
        url: ``s3://bucket/prefix``, ``gs://…`` or ``az://…``.

    Raises:
        StartupError: the URL is not one of an object store.
    """

    def __init__(self, url: str) -> None:
        try:
            self._store = from_url(
                url,
                client_options={"timeout": _CALL, "connect_timeout": _CALL, "allow_http": True},
                retry_config={"max_retries": _RETRIES, "retry_timeout": 3 * _CALL},
            )
        except (BaseError, ValueError) as error:
            raise StartupError(f"blobs {url}: {error}") from error

    def put(self, data: bytes) -> str:
        """As `Blobs.put`."""
        digest = sha256_hex(data)
        with _failures(), contextlib.suppress(AlreadyExistsError, PreconditionError):
            obstore.put(self._store, _path(digest), data, mode="create", use_multipart=False)
        return digest

    def __contains__(self, digest: str) -> bool:
        return self._find(digest) is not None

    def get(self, digest: str) -> bytes:
        """As `Blobs.get`."""
        with _failures():
            try:
                data = bytes(obstore.get(self._store, _path(digest)).bytes())
            except _MISSING as error:
                raise CorruptDataError("STORE_CORRUPTED", f"the server has lost blob {digest}") from error
        return verified(digest, data)

    def size(self, digest: str) -> int:
        """As `Blobs.size`."""
        return self._find(digest) or 0

    def delete(self, digest: str) -> None:
        """As `Blobs.delete`."""
        with _failures(), contextlib.suppress(*_MISSING):
            obstore.delete(self._store, _path(digest))

    def digests(self, *, older_than: float = 0.0) -> Iterator[str]:
        """As `Blobs.digests`."""
        latest = time.time() - older_than
        with _failures():
            for page in obstore.list(self._store):
                for found in page:
                    digest = found["path"].rpartition("/")[2]
                    if len(digest) == len(sha256_hex(b"")) and found["last_modified"].timestamp() <= latest:
                        yield digest

    def fragments(self, *, older_than: float) -> Iterator[int]:
        """As `Blobs.fragments`: an object store has none."""
        yield from ()

    def delete_fragments(self, *, older_than: float) -> None:
        """As `Blobs.delete_fragments`: an object store has none."""

    def _find(self, digest: str) -> int | None:
        """Returns the size of a blob in bytes; None where it does not exist."""
        with _failures():
            try:
                return int(obstore.head(self._store, _path(digest))["size"])
            except _MISSING:
                return None


def _path(digest: str) -> str:
    return f"{digest[:2]}/{digest}"


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Translates the errors of an object store.

    Raises:
        StoreFailedError: it refused the credentials, or what they may do.
        UnavailableError: it is away, slow or full.
    """
    try:
        yield
    except (AlreadyExistsError, PreconditionError, NotFoundError):
        raise
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise StoreFailedError("STORE_FAILED", "the object store refused the server") from error
    except BaseError as error:
        raise UnavailableError("the object store is busy or away", retry_after=1.0) from error
