"""What was lately made of what the store holds, so that the next call need not make it again."""

import threading
from typing import Any, Final

from cachetools import TTLCache

_SECONDS: Final = 60.0

RECENT_BYTES: Final = 256 << 20
"""Default of the most bytes that are held."""


class Recent:
    """Values by key, for a minute at most and within a number of bytes; what was used longest ago goes first.

    Nothing depends on what is in it: a value that is not found is made again, and comes out the same.

    Args:
        max_bytes: of all values together.
    """

    def __init__(self, max_bytes: int = RECENT_BYTES) -> None:
        self._values: TTLCache[tuple[str, ...], tuple[Any, int]] = TTLCache(
            max_bytes, ttl=_SECONDS, getsizeof=lambda entry: entry[1]
        )
        self._lock = threading.Lock()

    def put(self, key: tuple[str, ...], value: object, size: int) -> None:
        """Holds a value of so many bytes; one that is larger than all may be is not held."""
        with self._lock:
            if size <= self._values.maxsize:
                self._values[key] = (value, size)

    def get(self, key: tuple[str, ...]) -> Any | None:
        """The value, which stays."""
        with self._lock:
            entry = self._values.get(key)
        return None if entry is None else entry[0]

    def take(self, key: tuple[str, ...]) -> Any | None:
        """The value, for one caller alone."""
        with self._lock:
            entry = self._values.pop(key, None)
        return None if entry is None else entry[0]

    def expire(self) -> None:
        """Gives up what is too old."""
        with self._lock:
            self._values.expire()
