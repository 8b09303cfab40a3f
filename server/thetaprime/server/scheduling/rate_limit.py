"""Limits how often each tenant may call: a token bucket for each."""

import time
from collections.abc import Callable

from thetaprime.server.errors import BusyError


class RateLimit:
    """Limits the adaptation steps of each tenant. For one event loop.

    A tenant's bucket holds the steps of one second, at least one, and fills at the tenant's rate.

    Args:
        rate_of: returns the steps per second that a tenant may take; None for no limit.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, rate_of: Callable[[str], float | None], clock: Callable[[], float] = time.monotonic) -> None:
        self._rate_of = rate_of
        self._clock = clock
        # The level of each bucket and the time of that level. Only authenticated tenants have one, so they are few.
        self._levels: dict[str, tuple[float, float]] = {}

    def take(self, tenant: str) -> None:
        """Takes one step from a tenant's bucket.

        Raises:
            BusyError: the bucket is empty; the error says when to retry.
        """
        rate = self._rate_of(tenant)
        if rate is None:
            return
        now, capacity = self._clock(), max(1.0, rate)
        level, since = self._levels.get(tenant, (capacity, now))
        level = min(capacity, level + (now - since) * rate)
        if level < 1.0:
            # A refused call leaves the bucket as it was: an early retry does not prolong the wait.
            raise BusyError(
                f"the tenant may take {rate:g} adaptation steps per second", retry_after=(1.0 - level) / rate
            )
        self._levels[tenant] = (level - 1.0, now)
