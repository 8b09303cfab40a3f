"""Bounds the memory of messages that arrive and of replies that wait to be read."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from thetaprime.server.auth.authenticator import DEFAULT_TENANT, Caller
from thetaprime.server.errors import BusyError
from thetaprime.server.scheduling.fair_slots import FairQueue

_PATIENCE_SECONDS = 5.0
# A connection's share of the limit of its address.
_CONNECTION_SHARE: Final = 1 / 2
# Messages and replies may exceed the limits of uploads by this factor: waiting uploads never block them.
_HEADROOM: Final = 1.25
# The budget's own is at least this: the replies of single calls fit, however small the budget.
_LEAST_HEADROOM_BYTES: Final = 4 << 20
# A message whose size is unknown counts as at most this share of a limit: several fit, however small the limit.
_MESSAGE_SHARE: Final = 1 / 8


class _Waiter(NamedTuple):
    caller: Caller
    size: int
    granted: "asyncio.Future[None]"


class MemoryBudget:
    """The bytes of all calls in progress: uploads and other messages that arrive, and unread replies.

    Use it on one event loop. Uploads take at most `limit` bytes. The other kinds may exceed every limit by a quarter:
    uploads never block them.

    - A tenant with bytes in flight gets room for more only while its total is at most the bytes left for the other
      tenants (the dynamic thresholds of Choudhury and Hahne, 1998). However many uploads one tenant sends, and however
      slowly, there is room for another tenant's.
    - Callers without a tenant share the limit of their address, and each connection has half of it. An address
      or a connection without bytes in flight may exceed its limit once.

    Args:
        limit: bytes of all uploads together.
        address_limit: bytes of the callers of one address that have no tenant; None for no limit.
        message_bytes: largest size of a message whose size is unknown until it has arrived.
    """

    def __init__(
        self,
        limit: int,
        address_limit: int | None = None,
        *,
        message_bytes: int = 0,
    ) -> None:
        self._limit = limit
        self._address_limit = limit * _HEADROOM if address_limit is None else address_limit
        self._connection_limit = self._address_limit * (1.0 if address_limit is None else _CONNECTION_SHARE)
        self._message_bytes = min(message_bytes, int(min(limit, self._address_limit) * _MESSAGE_SHARE))
        self._used = 0
        self._tenants: Counter[str] = Counter()
        self._addresses: Counter[str] = Counter()
        self._connections: Counter[str] = Counter()
        # By priority: a message is small and arrives soon.
        self._messages: FairQueue[_Waiter] = FairQueue()
        self._uploads: FairQueue[_Waiter] = FairQueue()

    @property
    def used(self) -> int:
        """The bytes that are reserved."""
        return self._used

    @contextlib.asynccontextmanager
    async def upload(self, caller: Caller, size: int) -> AsyncIterator[None]:
        """Reserves the bytes of an upload for as long as the context lasts; waits for room.

        Args:
            caller: of the upload.
            size: bytes of its payload. At least the bytes of one message are reserved.

        Raises:
            BusyError: other calls hold too much of the budget.
        """
        size = max(size, self._message_bytes)
        await self._reserve(self._uploads, caller, size, 1.0)
        try:
            yield
        finally:
            self.release(caller, size)

    @contextlib.asynccontextmanager
    async def message(self, caller: Caller) -> AsyncIterator[None]:
        """Reserves the bytes of a message of unknown size for as long as the context lasts; waits for room.

        Raises:
            BusyError: other calls hold too much of the budget.
        """
        await self._reserve(self._messages, caller, self._message_bytes, _HEADROOM)
        try:
            yield
        finally:
            self.release(caller, self._message_bytes)

    def hold(self, caller: Caller, size: int) -> None:
        """Reserves bytes of a message that has arrived, or of a reply. Release them with `release`.

        Raises:
            BusyError: other calls hold too much of the budget.
        """
        if not self._fits(caller, size, _HEADROOM):
            raise _busy(size)
        self._add(caller, size)

    def release(self, caller: Caller, size: int) -> None:
        """Releases bytes, and gives them to calls that wait."""
        self._add(caller, -size)
        self._hand_out()

    async def _reserve(self, queue: FairQueue[_Waiter], caller: Caller, size: int, headroom: float) -> None:
        line = _line(caller)
        if not queue.waiting(line) and self._fits(caller, size, headroom):
            self._add(caller, size)
            return
        waiter = _Waiter(caller, size, asyncio.get_running_loop().create_future())
        queue.add(line, waiter)
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await waiter.granted
        except BaseException as error:
            # The room may have been granted in the same moment in which the caller was canceled.
            if waiter.granted.done() and not waiter.granted.cancelled():
                self.release(caller, size)
            else:
                self._hand_out()
            if isinstance(error, TimeoutError):
                raise _busy(size) from None
            raise

    def _fits(self, caller: Caller, size: int, headroom: float) -> bool:
        more = 0 if headroom == 1.0 else max(_LEAST_HEADROOM_BYTES, self._limit * (headroom - 1.0))
        left = self._limit + more - self._used - size
        if left < 0:
            return False
        if caller.tenant != DEFAULT_TENANT:
            held = self._tenants[caller.tenant]
            return not held or held + size <= left
        for held, limit in (
            (self._connections[caller.peer], self._connection_limit),
            (self._addresses[caller.network], self._address_limit),
        ):
            if held and held + size > limit * headroom:
                return False
        return True

    def _add(self, caller: Caller, size: int) -> None:
        self._used += size
        if caller.tenant != DEFAULT_TENANT:
            _count(self._tenants, caller.tenant, size)
        else:
            _count(self._connections, caller.peer, size)
            _count(self._addresses, caller.network, size)

    def _hand_out(self) -> None:
        for queue, headroom in ((self._messages, _HEADROOM), (self._uploads, 1.0)):

            def may_serve(line: str, queue: FairQueue[_Waiter] = queue, headroom: float = headroom) -> bool:
                first = queue.first(line)
                return first.granted.done() or self._fits(first.caller, first.size, headroom)

            while (found := queue.next(may_serve)) is not None:
                _, waiter = found
                if not waiter.granted.done():
                    self._add(waiter.caller, waiter.size)
                    waiter.granted.set_result(None)


def _line(caller: Caller) -> str:
    return caller.peer if caller.tenant == DEFAULT_TENANT else caller.tenant


def _count(counter: Counter[str], key: str, size: int) -> None:
    counter[key] += size
    if not counter[key]:
        del counter[key]


def _busy(size: int) -> BusyError:
    return BusyError(f"too many messages and replies are in progress to take {size} bytes more", retry_after=1.0)
