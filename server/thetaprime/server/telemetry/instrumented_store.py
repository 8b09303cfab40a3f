"""The store, with every operation measured and traced."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from thetaprime.server.config import RECENT_BYTES, ROW_BYTES
from thetaprime.server.store import BlobStore, Store
from thetaprime.server.telemetry.metrics import Metrics
from thetaprime.server.telemetry.tracing import span


class InstrumentedStore(Store):
    """A store that measures and traces each operation.

    ``read`` and ``write`` are whole transactions, including the work inside them and, for ``write``, the wait for the
    write lock. ``put`` and ``get`` are blobs stored as files.

    Args:
        folder: as for `Store`.
        metrics: receives the durations.
        row_bytes: as for `Store`.
        recent_bytes: as for `Store`.

    Attributes:
        writes: number of writing transactions that have committed, roughly: threads count at once.
    """

    def __init__(
        self, folder: Path, metrics: Metrics, row_bytes: int = ROW_BYTES, recent_bytes: int = RECENT_BYTES
    ) -> None:
        self._metrics = metrics
        self.writes = 0
        super().__init__(folder, row_bytes=row_bytes, recent_bytes=recent_bytes)
        self.blobs = _InstrumentedBlobs(folder / "blobs", metrics)

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """As `Store.reading`."""
        with _observe(self._metrics, "read"), super().reading() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """As `Store.writing`."""
        with _observe(self._metrics, "write"), super().writing() as connection:
            yield connection
        self.writes += 1


class _InstrumentedBlobs(BlobStore):
    def __init__(self, folder: Path, metrics: Metrics) -> None:
        super().__init__(folder)
        self._metrics = metrics

    def put(self, data: bytes) -> str:
        with _observe(self._metrics, "put"):
            return super().put(data)

    def get(self, digest: str) -> bytes:
        with _observe(self._metrics, "get"):
            return super().get(digest)


@contextlib.contextmanager
def _observe(metrics: Metrics, operation: str) -> Iterator[None]:
    with metrics.time_store_operation(operation), span(f"store.{operation}"):
        yield
