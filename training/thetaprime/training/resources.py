"""The machine: its cores, and threads that share the tasks."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def available_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class MapTasks(Protocol):
    """Applies a function to each item, possibly in parallel; results are in the items' order."""

    def __call__(self, function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        """The results."""


@contextmanager
def task_threads(threads: int) -> Iterator[MapTasks]:
    """Threads that share the tasks; each operation of torch runs on one thread.

    torch releases the interpreter's lock, so threads suffice. No sum is split between cores, so results do not depend
    on the number of threads: a server that adapts on one thread computes the same bits.

    Args:
        threads: how many.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:

            def map_tasks(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
                return list(pool.map(function, items))

            yield map_tasks
    finally:
        torch.set_num_threads(before)


def in_turn(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Applies a function to one item after another, on this thread."""
    return [function(item) for item in items]
