"""The store, with every operation timed and traced."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from thetaprime.server.store import RECENT_BYTES, ROW_BYTES, BlobStore, Store
from thetaprime.server.telemetry.metrics import Metrics
from thetaprime.server.telemetry.tracing import span


class ObservedStore(Store):
    """A store that measures each operation.

    ``read`` and ``write`` are whole transactions, with what is done within them and, for ``write``, the wait for its
    turn; ``put`` and ``get`` are blobs that are files.

    Args:
        folder: as for `Store`.
        metrics: where the times go.
        row_bytes: as for `Store`.
        recent_bytes: as for `Store`.
    """

    def __init__(
        self, folder: Path, metrics: Metrics, row_bytes: int = ROW_BYTES, recent_bytes: int = RECENT_BYTES
    ) -> None:
        self._metrics = metrics
        super().__init__(folder, row_bytes=row_bytes, recent_bytes=recent_bytes)
        self.blobs = _ObservedBlobs(folder / "blobs", metrics)

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """As `Store.reading`."""
        with _observed(self._metrics, "read"), super().reading() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """As `Store.writing`."""
        with _observed(self._metrics, "write"), super().writing() as connection:
            yield connection


class _ObservedBlobs(BlobStore):
    def __init__(self, folder: Path, metrics: Metrics) -> None:
        super().__init__(folder)
        self._metrics = metrics

    def put(self, data: bytes) -> str:
        with _observed(self._metrics, "put"):
            return super().put(data)

    def get(self, digest: str) -> bytes:
        with _observed(self._metrics, "get"):
            return super().get(digest)


@contextlib.contextmanager
def _observed(metrics: Metrics, operation: str) -> Iterator[None]:
    with metrics.store_operation(operation), span(f"store.{operation}"):
        yield
