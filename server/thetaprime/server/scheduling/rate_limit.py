"""Limits the adaptation steps that each tenant may take per second: a token bucket."""

import time
from collections.abc import Callable
from typing import Final

from cachetools import TTLCache

from thetaprime.server.errors import BusyError

_PREPAID_STEPS: Final = 10_000
_PREPAID_SECONDS: Final = 3600.0


class RateLimit:
    """A token bucket for each tenant; one adaptation step costs one token. Use it on one event loop.

    A bucket holds one second's worth of tokens, and at least one. The step of a round may be precomputed, and is then
    charged before `Adapt` asks for it: `Adapt` of that round is free. A second upload discards the precomputed step, so
    a tenant computes at most two steps for each token.

    Args:
        rate_of: steps per second that a tenant may take; None for no limit.
        clock: monotonic seconds.
    """

    def __init__(self, rate_of: Callable[[str], float | None], clock: Callable[[], float] = time.monotonic) -> None:
        self._rate_of = rate_of
        self._clock = clock
        # Tokens of each tenant, and when they were counted. Authenticated tenants only, so the dictionary is small.
        self._tokens: dict[str, tuple[float, float]] = {}
        # Rounds whose precomputed step was charged, until `Adapt` asks for it.
        self._prepaid: TTLCache[tuple[str, str, int], None] = TTLCache(_PREPAID_STEPS, _PREPAID_SECONDS, timer=clock)

    def charge(self, tenant: str, session_id: str, round_index: int) -> None:
        """Charges the step that `Adapt` asks for, unless its precomputation was charged.

        Raises:
            BusyError: the bucket is empty; the error says when to retry.
        """
        rate = self._rate_of(tenant)
        prepaid = (tenant, session_id, round_index)
        if rate is None or prepaid in self._prepaid:
            self._prepaid.pop(prepaid, None)
            return
        tokens = self._refill(tenant, rate)
        if tokens < 1.0:
            # A refused call costs nothing: retrying early does not lengthen the wait.
            delay = (1.0 - tokens) / rate
            raise BusyError(f"the tenant may take {rate:g} adaptation steps per second", retry_after=delay)
        self._tokens[tenant] = (tokens - 1.0, self._clock())

    def prepay(self, tenant: str, session_id: str, round_index: int) -> bool:
        """Charges a step that is precomputed.

        Returns:
            False where the tenant's rate does not allow the step now; nothing is charged then.
        """
        rate = self._rate_of(tenant)
        if rate is None:
            return True
        tokens = self._refill(tenant, rate)
        if tokens < 1.0:
            return False
        self._tokens[tenant] = (tokens - 1.0, self._clock())
        self._prepaid[tenant, session_id, round_index] = None
        return True

    def _refill(self, tenant: str, rate: float) -> float:
        """Returns the tenant's tokens now."""
        now, capacity = self._clock(), max(1.0, rate)
        tokens, since = self._tokens.get(tenant, (capacity, now))
        return min(capacity, tokens + (now - since) * rate)
