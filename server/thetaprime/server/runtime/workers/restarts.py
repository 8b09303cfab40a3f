"""Decides when an ended worker is restarted, and when the server ends instead."""

import time
from collections.abc import Callable
from typing import Final

_TRIES: Final = 4
_SETTLED_SECONDS: Final = 10.0
_FIRST_DELAY_SECONDS: Final = 0.5


class WorkersError(RuntimeError):
    """A worker keeps ending; the message is one line with its number and its last exit status."""


class Restarts:
    """The restarts of one worker: the first is immediate, and each delay after it is twice the one before.

    A worker that ran for 10 seconds has settled, and its count of early exits starts again at zero.

    Args:
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._early_exits = 0

    def record_start(self) -> None:
        """Records that the worker accepts calls, or failed to start."""
        self._started = self._clock()

    def next_delay(self, worker: int, status: int) -> float:
        """Returns the seconds to wait before the restart of a worker that ended.

        Args:
            worker: its number.
            status: its exit status.

        Raises:
            WorkersError: it is the worker's fourth early exit in a row.
        """
        if self._clock() - self._started >= _SETTLED_SECONDS:
            self._early_exits = 0
        self._early_exits += 1
        if self._early_exits == _TRIES:
            raise WorkersError(
                f"worker {worker} ended {_TRIES} times in a row within {_SETTLED_SECONDS:g} s, the last time with "
                f"status {status}; see the log for the reason"
            )
        return 0.0 if self._early_exits == 1 else _FIRST_DELAY_SECONDS * 2.0 ** (self._early_exits - 2)
