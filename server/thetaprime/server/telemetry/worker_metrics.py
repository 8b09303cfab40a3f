"""The metrics of several processes on one page: what they count, added up, and what the system says of each."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable that tells a process where to keep what it counts; it must be there at the start."""


def add_workers(registry: CollectorRegistry, folder: Path, pids: Callable[[], Mapping[int, int]]) -> None:
    """Adds the metrics of all workers to a page.

    Args:
        registry: of the page.
        folder: where the workers keep what they count.
        pids: process ids of the workers that are running, by their number.
    """
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    registry.register(_Processes(pids))


def forget(folder: Path, pid: int) -> None:
    """Takes what a process had in hand, or was, out of the sums; what it has done stays counted."""
    mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]


class _Processes(Collector):
    """The `process_` metrics of each worker, under the label ``worker``.

    A sum over processes would fall whenever one of them is started again, which a counter must not.
    """

    def __init__(self, pids: Callable[[], Mapping[int, int]]) -> None:
        self._pids = pids

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering asks for no names."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """One family for each metric, with a sample for each worker."""
        families: dict[str, Metric] = {}
        for worker, pid in sorted(self._pids().items()):
            for found in _process(pid):
                family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
                family.samples += [
                    sample._replace(labels={**sample.labels, "worker": str(worker)}) for sample in found.samples
                ]
        yield from families.values()


def _process(pid: int) -> list[Metric]:
    """What the system says of a process; nothing of one that is gone."""
    return list(ProcessCollector(pid=lambda: pid, registry=None).collect())
