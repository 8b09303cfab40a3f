"""When a worker that ended is started again, and when it is given up."""

import time
from collections.abc import Callable
from typing import Final

_TRIES: Final = 4
_SETTLED_SECONDS: Final = 10.0
_FIRST_SECONDS: Final = 0.5


class WorkersError(RuntimeError):
    """The workers do not stay alive; the message is one line that says which and how it ended."""


class Restarts:
    """The ends of one worker: after the first it is started again at once, then twice as late each time.

    Ends count as long as each comes soon after the worker began to take calls, or before.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._soon = 0

    def began(self) -> None:
        """The worker takes calls, or has failed to."""
        self._began = self._clock()

    def delay(self, worker: int, status: int) -> float:
        """How long to wait, in seconds, now that it has ended.

        Args:
            worker: its number.
            status: what it ended with.

        Raises:
            WorkersError: it has ended soon, again and again.
        """
        if self._clock() - self._began >= _SETTLED_SECONDS:
            self._soon = 0
        self._soon += 1
        if self._soon == _TRIES:
            raise WorkersError(
                f"worker {worker} ended {_TRIES} times in a row within {_SETTLED_SECONDS:g} s, the last time with "
                f"status {status}; the log says why"
            )
        return 0.0 if self._soon == 1 else _FIRST_SECONDS * 2.0 ** (self._soon - 2)
