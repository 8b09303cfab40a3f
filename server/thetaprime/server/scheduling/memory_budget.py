"""Bounds the memory of the payloads that are arriving."""

import contextlib
from collections import Counter
from collections.abc import Iterator

from thetaprime.server.auth.authenticator import DEFAULT_TENANT
from thetaprime.server.errors import BusyError


class MemoryBudget:
    """The bytes that all arriving payloads may take together. Use it on one event loop.

    A tenant with an upload in flight gets room for another only while its total is at most the bytes left for the other
    tenants (the dynamic thresholds of Choudhury and Hahne, 1998). However many uploads one tenant sends, and however
    slowly, there is room for another tenant's.
    """

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._reserved: Counter[str] = Counter()

    @contextlib.contextmanager
    def reserve(self, tenant: str, size: int) -> Iterator[None]:
        """Reserves bytes for as long as the context lasts.

        Raises:
            BusyError: other uploads hold too much of the budget.
        """
        total, left = self._reserved[tenant] + size, self._free - size
        has_others = tenant != DEFAULT_TENANT and total > size
        if left < 0 or (has_others and total > left):
            raise BusyError(f"too many uploads are arriving at once to take {size} bytes more", retry_after=1.0)
        self._free, self._reserved[tenant] = left, total
        try:
            yield
        finally:
            self._free += size
            self._reserved[tenant] -= size
            if not self._reserved[tenant]:
                del self._reserved[tenant]
