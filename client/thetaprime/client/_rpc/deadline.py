"""One deadline for work that makes many calls."""

import threading
import time
from collections.abc import Callable
from typing import Final

from thetaprime.client._errors import DeadlineError, InvalidInputError

Check = Callable[[], None]
"""Long work calls it often; an exception that it raises ends the work."""


class Interrupted(Exception):  # noqa: N818 - not an error of the collector that it ends
    """Ends a collector whose trajectories are no longer needed."""


class Deadline:
    """The end of some work: a point in time, or `stop`.

    Args:
        seconds: seconds from now; None sets no deadline.
        work: names the work in errors.

    Raises:
        InvalidInputError: `seconds` is not positive.
    """

    def __init__(self, seconds: float | None, work: str) -> None:
        if seconds is not None and not seconds > 0:
            raise InvalidInputError.at("timeout", f"{seconds!r}; expected a positive number of seconds, or None")
        self._seconds: Final = seconds
        self._work: Final = work
        self._end = None if seconds is None else time.monotonic() + seconds
        self._stopped = threading.Event()

    def remaining(self) -> float | None:
        """Returns the seconds left; None where there is no deadline.

        Raises:
            DeadlineError: the deadline has passed.
        """
        if self._end is None:
            return None
        left = self._end - time.monotonic()
        if left <= 0:
            raise DeadlineError(
                f"{self._work} did not end within its timeout of {self._seconds:g} s; set a longer one, or ask for less"
            )
        return left

    def annotate(self, error: BaseException) -> None:
        """Adds a note to a call's `DeadlineError` that this deadline caused."""
        if self._end is not None and isinstance(error, DeadlineError) and time.monotonic() >= self._end:
            error.add_note(f"the timeout of {self._seconds:g} s for {self._work} has passed")

    def stop(self) -> None:
        """Ends the work of every thread at its next `check`."""
        self._stopped.set()

    def check(self) -> None:
        """Raises an exception if the work must end.

        Raises:
            DeadlineError: the deadline has passed.
            Interrupted: `stop` was called.
        """
        if self._stopped.is_set():
            raise Interrupted
        self.remaining()
