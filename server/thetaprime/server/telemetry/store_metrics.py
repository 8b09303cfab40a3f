"""Measures the store at each scrape, at a bounded cost."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from thetaprime.server.errors import ServiceError
from thetaprime.server.store import Store
from thetaprime.server.store.tables import sessions

_SESSIONS_SEEN: Final = 100_000
_BLOB_SECONDS: Final = 0.1


class StoreMetrics(Collector):
    """The number of open sessions and of stored bytes. A metric that cannot be read is missing from the scrape.

    Args:
        store: the store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        # An object store says how many bytes it holds in its own metrics.
        self._blobs = [BlobSizes(folder) for folder in store.blobs.folders]

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Yields the metrics without values: registration needs only their names."""
        yield _sessions()
        yield _bytes()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yields the metrics."""
        try:
            open_sessions = count_open_sessions(self._store)
        except (sa.exc.SQLAlchemyError, ServiceError):
            pass
        else:
            yield _sessions(open_sessions)
        found = _bytes()
        measures = [("database", self._store.database.size), *(("blobs", each.total) for each in self._blobs)]
        for kind, measure in measures:
            try:
                found.add_metric([kind], measure())
            except (OSError, sa.exc.SQLAlchemyError, ServiceError):
                continue
        yield found


class BlobSizes:
    """Estimates the bytes in a folder of blobs.

    Each call measures as many subfolders as its time allows, the least recently measured first. Digests spread evenly
    over the subfolders, so a subfolder not measured yet counts as the mean of the others.

    Args:
        folder: the folder with the subfolders of blobs.
        seconds: time limit of each call; at least one subfolder is measured.
        now: a clock, in seconds.
    """

    def __init__(
        self, folder: Path, seconds: float = _BLOB_SECONDS, now: Callable[[], float] = time.perf_counter
    ) -> None:
        self._folder = folder
        self._seconds = seconds
        self._now = now
        self._sizes: dict[Path, int] = {}

    def total(self) -> int:
        """Returns the bytes of all blobs, measured or estimated.

        Raises:
            OSError: the folder cannot be read.
        """
        started = self._now()
        subfolders = [Path(entry.path) for entry in os.scandir(self._folder) if len(entry.name) == 2]
        sizes = {path: size for path, size in self._sizes.items() if path in set(subfolders)}
        unseen = [path for path in subfolders if path not in sizes]
        for path in [*unseen, *sizes]:
            # Moves the subfolder to the end of the order: the next call measures the others first.
            sizes.pop(path, None)
            sizes[path] = _size(path)
            if self._now() - started >= self._seconds:
                break
        self._sizes = sizes
        return round(sum(sizes.values()) * len(subfolders) / len(sizes)) if sizes else 0


def count_open_sessions(store: Store, seen: int = _SESSIONS_SEEN) -> int:
    """Counts the open sessions among the first `seen` that have not expired."""
    unexpired = sa.select(sessions.c.closed).where(sessions.c.expire_time > store.now()).limit(seen).subquery()
    query = sa.select(sa.func.count()).select_from(unexpired).where(unexpired.c.closed.is_(False))
    with store.reading() as connection:
        return connection.scalar(query) or 0


def _size(folder: Path) -> int:
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                total += entry.stat().st_size
            # A sweep may have deleted it meanwhile.
            except FileNotFoundError:
                continue
    return total


def _sessions(value: float | None = None) -> GaugeMetricFamily:
    return GaugeMetricFamily("thetaprime_sessions_open", "Open sessions: neither closed nor expired.", value=value)


def _bytes() -> GaugeMetricFamily:
    return GaugeMetricFamily("thetaprime_stored_bytes", "Stored bytes, by kind.", labels=["kind"])
