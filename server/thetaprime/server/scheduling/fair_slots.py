"""Whose turn it is: within a tenant first come, first served; the tenants one after the other."""

import asyncio
import contextlib
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from typing import Final, Generic, TypeVar

from thetaprime.server.errors import BusyError

Item = TypeVar("Item")

_PRESENT_SECONDS: Final = 10.0


def _anyone(tenant: str) -> bool:
    return True


class FairQueue(Generic[Item]):
    """What waits, by tenant. However much one tenant has waiting, another's first item is at most one round away."""

    def __init__(self) -> None:
        # Only tenants with something waiting are in it, the one whose turn is next in front.
        self._lines: OrderedDict[str, deque[Item]] = OrderedDict()

    def tenants(self) -> list[str]:
        """Those that have something waiting."""
        return list(self._lines)

    def waiting(self, tenant: str) -> int:
        """How many items of a tenant wait."""
        return len(self._lines.get(tenant, ()))

    def add(self, tenant: str, item: Item) -> None:
        """Puts an item at the end of its tenant's line."""
        self._lines.setdefault(tenant, deque()).append(item)

    def next(self, may: Callable[[str], bool] = _anyone) -> tuple[str, Item] | None:
        """Takes the item whose turn it is, with its tenant; None where nothing waits.

        Args:
            may: whether it may be a tenant's turn; one that is passed over stays where it is.
        """
        tenant = next(filter(may, self._lines), None)
        if tenant is None:
            return None
        line = self._lines.pop(tenant)
        item = line.popleft()
        if line:
            self._lines[tenant] = line
        return tenant, item


class FairSlots:
    """So many places for work, one piece in each; the tenants whose work waits for one take turns. For one event loop.

    Who holds a place does not take the last free one while another tenant is about: that one's next piece of work then
    begins at once, and not when something ends. A tenant that has been alone for a while takes all of them.

    Args:
        count: of the places.
        queue: pieces of work of one tenant that may wait for `place`; None where something else bounds them.
        clock: seconds that only go forward.
    """

    def __init__(self, count: int, queue: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._free = count
        self._queue = queue
        self._clock = clock
        self._turns: FairQueue[asyncio.Future[None]] = FairQueue()
        self._held: Counter[str] = Counter()
        # When each last asked or gave back. Only tenants that a token stood for come here, so they are few.
        self._seen: dict[str, float] = {}

    def may_begin(self, tenant: str) -> bool:
        """Whether work of a tenant would begin at once."""
        return self._free > 1 or (self._free == 1 and (not self._held[tenant] or self._alone(tenant)))

    def ask(self, tenant: str) -> "asyncio.Future[None]":
        """A turn: done once a place is the tenant's, which is to be given back.

        A turn that is cancelled before takes no place.
        """
        turn = asyncio.get_running_loop().create_future()
        self._seen[tenant] = self._clock()
        self._turns.add(tenant, turn)
        self._hand_out()
        return turn

    def give_back(self, tenant: str) -> None:
        """Frees a place of a tenant for whose turn it is."""
        self._held[tenant] -= 1
        if not self._held[tenant]:
            del self._held[tenant]
        self._free += 1
        self._seen[tenant] = self._clock()
        self._hand_out()

    @contextlib.asynccontextmanager
    async def place(self, tenant: str) -> AsyncIterator[None]:
        """Holds a place for as long as the context lasts.

        Raises:
            BusyError: too much of the tenant's waits already.
        """
        waiting = self._turns.waiting(tenant)
        if self._queue is not None and waiting >= self._queue:
            raise BusyError(f"{waiting} calls of the tenant are waiting", retry_after=1.0)
        turn = self.ask(tenant)
        try:
            await turn
            yield
        finally:
            # Its place may have come in the very moment in which its caller went away.
            if turn.done() and not turn.cancelled():
                self.give_back(tenant)

    def drop(self) -> None:
        """Cancels every turn that is still to come."""
        while (found := self._turns.next()) is not None:
            found[1].cancel()

    def _hand_out(self) -> None:
        while self._free and (found := self._turns.next(self.may_begin)) is not None:
            tenant, turn = found
            if not turn.cancelled():
                self._free -= 1
                self._held[tenant] += 1
                turn.set_result(None)

    def _alone(self, tenant: str) -> bool:
        since = self._clock() - _PRESENT_SECONDS
        return not any(seen > since for other, seen in self._seen.items() if other != tenant)
