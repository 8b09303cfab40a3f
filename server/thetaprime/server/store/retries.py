"""Repeats transactions that a lost connection or a serialization failure has ended. Every call is safe to repeat."""

import contextvars
import functools
import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, TypeVar

from thetaprime.server.errors import TransientError

if TYPE_CHECKING:
    from thetaprime.server.store.store import Store

P = ParamSpec("P")
R = TypeVar("R")

_SECONDS: Final = 1.0
"""Longest time from the first failure to the last attempt. A client retries too."""
_FIRST_PAUSE, _GROWTH = 0.02, 3.0

_deadline: contextvars.ContextVar[float] = contextvars.ContextVar("deadline", default=float("inf"))


def set_call_deadline(seconds: float | None) -> None:
    """Sets how long the current call may take from now, as its client asked; None for no limit."""
    if seconds is not None:
        _deadline.set(time.monotonic() + seconds)


class Retries:
    """Repeats functions. Where one failed to the end, none is repeated until another has succeeded.

    While a database is away, repeated attempts would hold the threads that others wait for.
    """

    def __init__(self) -> None:
        self._away = threading.Event()

    def run(self, function: Callable[[], R]) -> R:
        """Returns the result of a function.

        Raises:
            TransientError: it failed for a second, or until the deadline of the call.
        """
        end, pause = None, _FIRST_PAUSE
        while True:
            try:
                result = function()
            except TransientError:
                # The jitter spreads transactions that failed together.
                wait, now = pause * (0.5 + random.random()), time.monotonic()  # noqa: S311
                end = min(now + _SECONDS, _deadline.get()) if end is None else end
                if self._away.is_set() or now + wait >= end:
                    self._away.set()
                    raise
                time.sleep(wait)
                pause *= _GROWTH
            else:
                self._away.clear()
                return result


def retried(function: "Callable[Concatenate[Store, P], R]") -> "Callable[Concatenate[Store, P], R]":
    """Returns a function whose transactions are repeated after a lost connection or a serialization failure.

    It must be safe to repeat: its commit may have succeeded although the connection was lost.
    """

    def run(store: "Store", /, *args: P.args, **kwargs: P.kwargs) -> R:
        return store.retries.run(lambda: function(store, *args, **kwargs))

    functools.update_wrapper(run, function)
    return run
