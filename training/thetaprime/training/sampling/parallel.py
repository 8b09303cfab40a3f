"""The same computation for every task, on several cores."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class MapTasks(Protocol):
    """Applies a function to each item, perhaps in parallel; results in the items' order."""

    def __call__(self, function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        """The results."""


@contextmanager
def task_threads(threads: int) -> Iterator[MapTasks]:
    """Threads that share tasks out between them, each of torch's operations staying on its own.

    torch spends its time outside the interpreter's lock, so that threads suffice. And since no sum is split
    between cores, results do not depend on how many there are: a server that adapts on one thread gets the same bits.

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
    """One after another, on this thread."""
    return [function(item) for item in items]
