"""The store, with every operation measured and traced."""

import contextlib
from collections.abc import Collection, Iterator

import sqlalchemy as sa

from thetaprime.server.config import ServerConfig
from thetaprime.server.store import Blobs, Store
from thetaprime.server.telemetry.metrics import Metrics
from thetaprime.server.telemetry.tracing import span


class InstrumentedStore(Store):
    """A store that measures and traces each operation.

    ``read`` and ``write`` are whole transactions, including the work inside them and, for ``write``, the wait for the
    write lock. ``put`` and ``get`` are blobs outside the database.

    Args:
        config: says where the store lies, and its limits.
        metrics: receives the durations.

    Attributes:
        writes: number of writing transactions that have committed, roughly: threads count at once.
    """

    def __init__(self, config: ServerConfig, metrics: Metrics) -> None:
        self._metrics = metrics
        self.writes = 0
        super().__init__(
            config.store,
            row_bytes=config.row_bytes,
            recent_bytes=config.recent_bytes,
            blobs=config.blobs,
            connections=config.store_connections,
        )
        self.blobs = _InstrumentedBlobs(self.blobs, metrics)

    @contextlib.contextmanager
    def reading(self, *, snapshot: bool = True) -> Iterator[sa.Connection]:
        """As `Store.reading`."""
        with _observe(self._metrics, "read"), super().reading(snapshot=snapshot) as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self, *tenants: str, blobs: Collection[str] = ()) -> Iterator[sa.Connection]:
        """As `Store.writing`."""
        with _observe(self._metrics, "write"), super().writing(*tenants, blobs=blobs) as connection:
            yield connection
        self.writes += 1


class _InstrumentedBlobs(Blobs):
    def __init__(self, blobs: Blobs, metrics: Metrics) -> None:
        self._blobs = blobs
        self._metrics = metrics
        self.folders, self.accepts = blobs.folders, blobs.accepts

    def put(self, data: bytes) -> str:
        with _observe(self._metrics, "put"):
            return self._blobs.put(data)

    def get(self, digest: str) -> bytes:
        with _observe(self._metrics, "get"):
            return self._blobs.get(digest)

    def __contains__(self, digest: str) -> bool:
        return digest in self._blobs

    def size(self, digest: str) -> int:
        return self._blobs.size(digest)

    def delete(self, digest: str) -> None:
        self._blobs.delete(digest)

    def digests(self, *, older_than: float = 0.0) -> Iterator[str]:
        return self._blobs.digests(older_than=older_than)

    def fragments(self, *, older_than: float) -> Iterator[int]:
        return self._blobs.fragments(older_than=older_than)

    def delete_fragments(self, *, older_than: float) -> None:
        self._blobs.delete_fragments(older_than=older_than)


@contextlib.contextmanager
def _observe(metrics: Metrics, operation: str) -> Iterator[None]:
    with metrics.time_store_operation(operation), span(f"store.{operation}"):
        yield
