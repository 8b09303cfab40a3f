"""Limits the rates of each tenant: token buckets of its calls and of its adaptation steps."""

import time
from collections.abc import Callable
from typing import Final

from cachetools import LRUCache, TTLCache

from thetaprime.server.auth.authenticator import DEFAULT_TENANT, Caller
from thetaprime.server.errors import RateLimitError

_PREPAID_STEPS: Final = 10_000
_PREPAID_SECONDS: Final = 3600.0
# A bucket that is forgotten is full again.
_BUCKETS: Final = 100_000


class TokenBuckets:
    """A token bucket for each tenant. Use it on one event loop.

    A bucket holds one second's worth of tokens, and at least one.

    Args:
        rate_of: tokens per second of a tenant; None for no limit.
        clock: monotonic seconds.
    """

    def __init__(self, rate_of: Callable[[str], float | None], clock: Callable[[], float] = time.monotonic) -> None:
        self._rate_of = rate_of
        self._clock = clock
        # Tokens of each bucket, and when they were counted.
        self._tokens: LRUCache[tuple[str, str], tuple[float, float]] = LRUCache(_BUCKETS)

    def take(self, tenant: str, network: str = "") -> tuple[float, float] | None:
        """Takes one token.

        Args:
            tenant: whose bucket it is.
            network: gives each address its bucket.

        Returns:
            None; or, where the bucket is empty, the tenant's rate and the seconds until it holds a token. A refused
            call costs nothing: retrying early does not lengthen the wait.
        """
        rate = self._rate_of(tenant)
        if rate is None:
            return None
        now, capacity = self._clock(), max(1.0, rate)
        tokens, since = self._tokens.get((tenant, network), (capacity, now))
        tokens = min(capacity, tokens + (now - since) * rate)
        if tokens < 1.0:
            return rate, (1.0 - tokens) / rate
        self._tokens[tenant, network] = (tokens - 1.0, now)
        return None


class RequestRate:
    """Limits the calls of each tenant, of all kinds together; of callers without a token, those of each address.

    Args:
        rate_of: calls per second that a tenant may make; None for no limit.
        clock: monotonic seconds.
    """

    def __init__(self, rate_of: Callable[[str], float | None], clock: Callable[[], float] = time.monotonic) -> None:
        self._buckets = TokenBuckets(rate_of, clock)

    def charge(self, caller: Caller) -> None:
        """Charges one call.

        Raises:
            RateLimitError: TENANT_REQUESTS; the error says when to retry.
        """
        network = caller.network if caller.tenant == DEFAULT_TENANT else ""
        refused = self._buckets.take(caller.tenant, network)
        if refused is not None:
            raise RateLimitError("TENANT_REQUESTS", "requests", *refused)


class RateLimit:
    """Limits the adaptation steps of each tenant. Use it on one event loop.

    The step of a round may be precomputed, and is then
    charged before `Adapt` asks for it: `Adapt` of that round is free. A second upload discards the precomputed step, so
    a tenant computes at most two steps for each token.

    Args:
        rate_of: steps per second that a tenant may take; None for no limit.
        clock: monotonic seconds.
    """

    def __init__(self, rate_of: Callable[[str], float | None], clock: Callable[[], float] = time.monotonic) -> None:
        self._buckets = TokenBuckets(rate_of, clock)
        # Rounds whose precomputed step was charged, until `Adapt` asks for it.
        self._prepaid: TTLCache[tuple[str, str, int], None] = TTLCache(_PREPAID_STEPS, _PREPAID_SECONDS, timer=clock)

    def charge(self, tenant: str, session_id: str, round_index: int) -> None:
        """Charges the step that `Adapt` asks for, unless its precomputation was charged.

        Raises:
            RateLimitError: TENANT_ADAPTATIONS; the error says when to retry.
        """
        prepaid = (tenant, session_id, round_index)
        if prepaid in self._prepaid:
            self._prepaid.pop(prepaid, None)
            return
        self.charge_explanation(tenant)

    def charge_explanation(self, tenant: str) -> None:
        """Charges a computation that costs as much as a step.

        Raises:
            RateLimitError: TENANT_ADAPTATIONS; the error says when to retry.
        """
        refused = self._buckets.take(tenant)
        if refused is not None:
            raise RateLimitError("TENANT_ADAPTATIONS", "adaptation steps", *refused)

    def prepay(self, tenant: str, session_id: str, round_index: int) -> bool:
        """Charges a step that is precomputed.

        Returns:
            False where the tenant's rate does not allow the step now; nothing is charged then.
        """
        if self._buckets.take(tenant) is not None:
            return False
        self._prepaid[tenant, session_id, round_index] = None
        return True
