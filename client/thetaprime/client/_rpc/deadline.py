"""One deadline for work that is made of many calls."""

import threading
import time
from collections.abc import Callable
from typing import Final

from thetaprime.client._errors import DeadlineError, InvalidInputError

Check = Callable[[], None]
"""Called often by long work; what it raises ends the work."""


class Interrupted(Exception):  # noqa: N818 - not an error: others that work beside it have failed
    """Raised in collectors when what they collect is not needed any more."""


class Deadline:
    """When the whole of some work must be done, and whether it is still wanted.

    Args:
        seconds: from now; None is never.
        what: the work, for the error.

    Raises:
        InvalidInputError: `seconds` is not positive.
    """

    def __init__(self, seconds: float | None, what: str) -> None:
        if seconds is not None and not seconds > 0:
            raise InvalidInputError.at("timeout", f"{seconds!r}; expected a positive number of seconds, or None")
        self._seconds: Final = seconds
        self._what: Final = what
        self._end = None if seconds is None else time.monotonic() + seconds
        self._stopped = threading.Event()

    def remaining(self) -> float | None:
        """Seconds that are left; None is without end.

        Raises:
            DeadlineError: none is left.
        """
        if self._end is None:
            return None
        left = self._end - time.monotonic()
        if left <= 0:
            raise DeadlineError(
                f"{self._what} did not end within its timeout of {self._seconds:g} s; give it more, or ask for less"
            )
        return left

    def annotate(self, error: BaseException) -> None:
        """Says of a call that ended because all of the work should have that this was so."""
        if self._end is not None and isinstance(error, DeadlineError) and time.monotonic() >= self._end:
            error.add_note(f"the timeout of {self._seconds:g} s for {self._what} has passed")

    def stop(self) -> None:
        """Ends the work in every thread at its next `check`."""
        self._stopped.set()

    def check(self) -> None:
        """Lets work go on, or ends it.

        Raises:
            DeadlineError: no time is left.
            Interrupted: `stop` was called.
        """
        if self._stopped.is_set():
            raise Interrupted
        self.remaining()
