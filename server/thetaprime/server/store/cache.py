"""A cache of values computed from the store, for the next call of their session."""

import threading
from typing import Any, Final

from cachetools import TTLCache

_SECONDS: Final = 60.0


class RecentCache:
    """Values by key, cached for a minute within a number of bytes; the least recently used is evicted first.

    Thread-safe. A missing value is computed again, to the same result.

    Args:
        max_bytes: total size of all values.
    """

    def __init__(self, max_bytes: int) -> None:
        self._values: TTLCache[tuple[str, ...], tuple[Any, int]] = TTLCache(
            max_bytes, ttl=_SECONDS, getsizeof=lambda entry: entry[1]
        )
        self._lock = threading.Lock()

    def put(self, key: tuple[str, ...], value: object, size: int) -> None:
        """Caches a value of `size` bytes, unless it is larger than the cache."""
        with self._lock:
            if size <= self._values.maxsize:
                self._values[key] = (value, size)

    def get(self, key: tuple[str, ...]) -> Any | None:
        """Returns a value, or None."""
        with self._lock:
            entry = self._values.get(key)
        return None if entry is None else entry[0]

    def take(self, key: tuple[str, ...]) -> Any | None:
        """Removes and returns a value, or None."""
        with self._lock:
            entry = self._values.pop(key, None)
        return None if entry is None else entry[0]

    def expire(self) -> None:
        """Evicts the values that are older than a minute."""
        with self._lock:
            self._values.expire()
