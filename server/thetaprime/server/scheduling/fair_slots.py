"""Slots for work that tenants take in turns: round robin between tenants, first come first served within each."""

import asyncio
import contextlib
import contextvars
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Executor
from typing import Final, Generic, ParamSpec, TypeVar

from thetaprime.server.errors import BusyError

P = ParamSpec("P")
R = TypeVar("R")
Item = TypeVar("Item")

_ACTIVE_SECONDS: Final = 10.0
# A tenant rests while another one has asked for a slot, or released one, within this time: a client pauses for less
# between the calls of a round.
_WORKING_SECONDS: Final = 1.0


def _any_tenant(tenant: str) -> bool:
    return True


class FairQueue(Generic[Item]):
    """A queue with one line per tenant, served round robin.

    However many items one tenant queues, another tenant's first item is served within one round.
    """

    def __init__(self) -> None:
        # Holds only tenants with queued items; the tenant to serve next comes first.
        self._lines: OrderedDict[str, deque[Item]] = OrderedDict()

    def waiting(self, tenant: str) -> int:
        """Returns the number of items that a tenant has queued."""
        return len(self._lines.get(tenant, ()))

    def first(self, tenant: str) -> Item:
        """Returns the first item of a tenant that has queued some."""
        return self._lines[tenant][0]

    def add(self, tenant: str, item: Item) -> None:
        """Appends an item to its tenant's line."""
        self._lines.setdefault(tenant, deque()).append(item)

    def tenants(self) -> Iterable[str]:
        """Returns the tenants that have queued items."""
        return self._lines

    def next(self, may_serve: Callable[[str], bool] = _any_tenant) -> tuple[str, Item] | None:
        """Removes and returns the next tenant and item, or None where no tenant may be served.

        Args:
            may_serve: whether a tenant may be served now; a tenant that is skipped keeps its position.
        """
        tenant = next(filter(may_serve, self._lines), None)
        if tenant is None:
            return None
        line = self._lines.pop(tenant)
        item = line.popleft()
        if line:
            self._lines[tenant] = line
        return tenant, item


class FairSlots:
    """A fixed number of slots that tenants take in turns. Use it on one event loop.

    A tenant that holds a slot does not get the last free one while another tenant is active: the other tenant's next
    call then starts at once. A tenant that was alone for 10 seconds may take every slot.

    Args:
        count: number of slots.
        queue: how many calls of one tenant may wait in `slot`; None for no limit.
        clock: monotonic seconds.
        share: slots that a tenant may hold while another tenant is active; None for no limit.
    """

    def __init__(
        self,
        count: int,
        queue: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        share: int | None = None,
    ) -> None:
        self._free = count
        self._share = count if share is None else share
        self._queue = queue
        self._clock = clock
        self._turns: FairQueue[asyncio.Future[None]] = FairQueue()
        self._held: Counter[str] = Counter()
        # When each tenant last asked for a slot or released one. Holds authenticated tenants only, so it is small.
        self._active: dict[str, float] = {}
        # When the rest of each tenant ends, and the timer for the first of those that wait.
        self._rests: dict[str, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def may_begin(self, tenant: str) -> bool:
        """Returns whether a tenant would get a slot at once."""
        if self._free <= 0 or self._must_rest(tenant):
            return False
        held = self._held[tenant]
        return not held or (self._free > 1 and held < self._share) or self._alone(tenant)

    def ask(self, tenant: str) -> "asyncio.Future[None]":
        """Queues for a slot.

        Returns:
            A future that is done once the tenant holds a slot; then call `release`. Cancel it to leave the queue.
        """
        turn = asyncio.get_running_loop().create_future()
        self._active[tenant] = self._clock()
        self._turns.add(tenant, turn)
        self._hand_out()
        return turn

    def release(self, tenant: str) -> None:
        """Frees one slot of a tenant, and gives it to the next in turn."""
        self._held[tenant] -= 1
        if not self._held[tenant]:
            del self._held[tenant]
        self._free += 1
        self._active[tenant] = self._clock()
        self._hand_out()

    def take(self, tenant: str) -> None:
        """Takes a slot at once, even where none is free, for work that goes on beside a slot that its tenant holds.

        Then call `release`. Until as many slots are released, no other call begins.
        """
        self._free -= 1
        self._held[tenant] += 1

    def rest(self, tenant: str, seconds: float) -> None:
        """Gives a tenant no slot for so many seconds, as long as another tenant works."""
        self._rests[tenant] = self._clock() + seconds

    @contextlib.asynccontextmanager
    async def slot(self, tenant: str) -> AsyncIterator[None]:
        """Holds a slot for as long as the context lasts.

        Raises:
            BusyError: the tenant's queue is full.
        """
        waiting = self._turns.waiting(tenant)
        if self._queue is not None and waiting >= self._queue:
            raise BusyError(f"{waiting} calls of the tenant are waiting", retry_after=1.0)
        turn = self.ask(tenant)
        try:
            await turn
            yield
        finally:
            # The slot may have been granted in the same moment in which the caller was cancelled.
            if turn.done() and not turn.cancelled():
                self.release(tenant)

    def drop(self) -> None:
        """Cancels every call that waits for a slot."""
        while (found := self._turns.next()) is not None:
            found[1].cancel()

    def _hand_out(self) -> None:
        while self._free > 0 and (found := self._turns.next(self.may_begin)) is not None:
            tenant, turn = found
            if not turn.cancelled():
                self._free -= 1
                self._held[tenant] += 1
                turn.set_result(None)
        self._wake_after_rest()

    def _must_rest(self, tenant: str) -> bool:
        return self._rests.get(tenant, 0.0) > self._clock() and not self._alone(tenant, _WORKING_SECONDS)

    def _wake_after_rest(self) -> None:
        """Sets a timer for the first end of a rest among the tenants that wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ends = [self._rests[tenant] for tenant in self._turns.tenants() if self._must_rest(tenant)]
        if self._free > 0 and ends:
            seconds = min(ends) - self._clock()
            self._timer = asyncio.get_running_loop().call_later(seconds, self._hand_out)

    def _alone(self, tenant: str, seconds: float = _ACTIVE_SECONDS) -> bool:
        since = self._clock() - seconds
        return not any(active > since for other, active in self._active.items() if other != tenant)


class FairThreads:
    """Runs blocking functions on threads, one for each slot; tenants take turns.

    Args:
        slots: the slots, one for each thread.
        executor: the threads.
        rest: how many times the processor time of a function its tenant rests afterward, while another tenant works.
    """

    def __init__(self, slots: FairSlots, executor: Executor, *, rest: float = 0.0) -> None:
        self.slots = slots
        self._executor = executor
        self._rest = rest

    async def run(self, tenant: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs a function on a thread when a slot is free. A canceled call returns after its thread has finished.

        Raises:
            BusyError: the tenant's queue is full.
        """
        async with self.slots.slot(tenant):
            if not self._rest:
                return await self.run_in_held_slot(function, *args, **kwargs)
            seconds = 0.0

            def measured() -> R:
                nonlocal seconds
                began = time.thread_time()
                try:
                    return function(*args, **kwargs)
                finally:
                    seconds = time.thread_time() - began

            try:
                return await self.run_in_held_slot(measured)
            finally:
                self.slots.rest(tenant, self._rest * seconds)

    async def run_in_held_slot(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs a function on a thread, for a caller that holds a slot already."""
        # Logs and spans of the thread carry the call's context.
        run = contextvars.copy_context().run
        work = asyncio.get_running_loop().run_in_executor(self._executor, lambda: run(function, *args, **kwargs))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise
