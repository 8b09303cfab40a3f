"""Aggregates the metrics of several workers: sums of their counts, and the process metrics of each."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector


def register_workers(registry: CollectorRegistry, folder: Path, pids: Callable[[], Mapping[int, int]]) -> None:
    """Registers the metrics of all workers.

    Args:
        registry: receives the metrics.
        folder: where the workers write their metrics.
        pids: returns the process ids of the running workers, by worker number.
    """
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    registry.register(_ProcessMetrics(pids))


def mark_dead(folder: Path, pid: int) -> None:
    """Removes the gauges of an ended process from the sums; its counters stay."""
    mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]


class _ProcessMetrics(Collector):
    """The `process_` metrics of each worker, with the label ``worker``.

    They are not summed: a sum would fall when a worker restarts, and a counter must not fall.
    """

    def __init__(self, pids: Callable[[], Mapping[int, int]]) -> None:
        self._pids = pids

    def describe(self) -> Iterator[Metric]:
        """Yields no metric: the names are known only at the scrape."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """Yields each metric once, with one sample per worker."""
        families: dict[str, Metric] = {}
        for worker, pid in sorted(self._pids().items()):
            for found in _read_process(pid):
                family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
                family.samples += [
                    sample._replace(labels={**sample.labels, "worker": str(worker)}) for sample in found.samples
                ]
        yield from families.values()


def _read_process(pid: int) -> list[Metric]:
    """Reads a process's metrics from the system; empty if the process has ended."""
    return list(ProcessCollector(pid=lambda: pid, registry=None).collect())
