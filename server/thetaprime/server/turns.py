"""Whose turn it is: within a tenant first come, first served; the tenants one after the other."""

from collections import OrderedDict, deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Turns(Generic[Item]):
    """What waits, by tenant. However much one tenant has waiting, another's first item is at most one round away."""

    def __init__(self) -> None:
        # Only tenants with something waiting are in it, the one whose turn is next in front.
        self._lines: OrderedDict[str, deque[Item]] = OrderedDict()

    def waiting(self, tenant: str) -> int:
        """How many items of a tenant wait."""
        return len(self._lines.get(tenant, ()))

    def add(self, tenant: str, item: Item) -> None:
        """Puts an item at the end of its tenant's line."""
        self._lines.setdefault(tenant, deque()).append(item)

    def next(self) -> Item | None:
        """Takes the item whose turn it is; None where nothing waits."""
        if not self._lines:
            return None
        tenant, line = self._lines.popitem(last=False)
        item = line.popleft()
        if line:
            self._lines[tenant] = line
        return item
