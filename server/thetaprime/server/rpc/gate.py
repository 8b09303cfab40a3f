"""Limits what a call may cost: from its headers, before a byte of its message is kept, until its reply is read."""

import asyncio
import collections
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import grpc

from thetaprime.server.auth.authenticator import DEFAULT_TENANT, Caller
from thetaprime.server.errors import BusyError, QuotaError, StalledRequestError
from thetaprime.server.rpc.connections import REFUSED_CALLS, UNREAD_REPLY
from thetaprime.server.scheduling.memory_budget import MemoryBudget
from thetaprime.wire import CHUNK_BYTES

MESSAGE_BYTES: Final = CHUNK_BYTES + (64 << 10)
"""The largest message: one chunk and its envelope."""
END_OF_REQUESTS: Final[object] = grpc.aio.EOF  # type: ignore[attr-defined]  # missing in its stubs
"""Received in place of a message that does not exist."""

# A message or reply up to this size costs no more than the call itself.
_SMALL: Final = 4096
# What a call may send beside the messages that are read: its headers, and the window that gRPC keeps unrequested.
_CALL_BYTES: Final = 80 << 10
# Python and gRPC each keep a reply until it is sent.
_REPLY_COPIES: Final = 2
# Calls of one connection, and of one address, in one second that may be refused or canceled before a connection is
# closed.
_REFUSALS: Final = 200
_ADDRESS_REFUSALS: Final = 400

Context = grpc.aio.ServicerContext


class ClosesConnections(Protocol):
    """Closes connections and blocks addresses, as `thetaprime.server.rpc.connections.Connections` does."""

    def close(self, peer: str, reason: str) -> object:
        """Closes a connection, named as by `grpc.aio.ServicerContext.peer`; the reason is a constant."""

    def block(self, network: str) -> object:
        """Refuses new connections of an address for a time."""

    def note(self, peer: str, size: int, awaited: int = 0) -> object:
        """Accounts for bytes of a connection's calls, and for a change of the bytes that are awaited."""


class Gate:
    """Admits calls, receives their messages and follows their replies, within the limits of address and connection.

    gRPC keeps a window of 64 KiB of each stream whose message was not requested, and a whole message of up to
    `MESSAGE_BYTES` of each stream whose message was. So a call requests its message only after it was admitted and
    authenticated, and while the memory budget has room.

    Use it on one event loop.

    Args:
        memory: the bytes of messages and replies.
        connections: closes connections that exceed a limit, and blocks their addresses.
        max_address_calls: calls in progress from one address, from their headers until their replies are read.
        request_seconds: seconds that the first message of a call may take to arrive.
        reply_seconds: seconds that a client may take to read a reply.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        memory: MemoryBudget,
        connections: ClosesConnections,
        *,
        max_address_calls: int,
        request_seconds: float,
        reply_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.memory = memory
        self.request_seconds = request_seconds
        self._connections = connections
        self._max_address_calls = max_address_calls
        self._reply_seconds = reply_seconds
        self._now = clock
        self._calls: collections.Counter[str] = collections.Counter()
        # Calls whose reply is being sent, by the time when they began, and so in order of time.
        self._sending: dict[AdmittedCall, float] = {}
        # Refused and canceled calls of this second, by connection and by address.
        self._second = 0
        self._refusals: collections.Counter[str] = collections.Counter()
        self._closed: set[str] = set()

    def admit(self, context: "Context[Any, Any]", caller: Caller) -> "AdmittedCall":
        """Admits a call by its headers, until it is done.

        Args:
            context: of the call.
            caller: with the tenant if the call is authenticated.

        Raises:
            BusyError: too many calls from the caller's address are in progress.
        """
        network = caller.network
        self._connections.note(caller.peer, _CALL_BYTES)
        if self._calls[network] >= self._max_address_calls:
            raise BusyError(f"{self._max_address_calls} calls from this address are in progress", retry_after=1.0)
        self._calls[network] += 1
        call = AdmittedCall(self, context, caller)
        # gRPC runs it when the call has ended and its reply was read, or its connection is closed.
        context.add_done_callback(call.end)  # type: ignore[arg-type]  # no protocol in its stubs
        return call

    def count_refusal(self, caller: Caller) -> None:
        """Counts a call that was refused, or canceled before its reply.

        Such calls cost their peer nothing. A connection with too many of them is closed. If they came without a token,
        their address is blocked.
        """
        if (second := int(self._now())) != self._second:
            self._second = second
            self._refusals.clear()
            self._closed.clear()
        peer, network = caller.peer, caller.network
        self._connections.note(peer, _CALL_BYTES)
        self._refusals[peer] += 1
        self._refusals[network] += 1
        exceeds = self._refusals[peer] >= _REFUSALS or self._refusals[network] >= _ADDRESS_REFUSALS
        # Calls of a closed connection still come, those that gRPC has read.
        if exceeds and peer not in self._closed:
            self._closed.add(peer)
            if caller.tenant == DEFAULT_TENANT:
                self._connections.block(network)
            self._connections.close(peer, REFUSED_CALLS)

    def close_unread(self) -> None:
        """Closes each connection that has not read a reply in time. For a periodic task."""
        due = self._now() - self._reply_seconds
        unread = []
        for call, began in self._sending.items():
            if began > due:
                break
            unread.append(call)
        for call in unread:
            # The call's end releases its memory: it follows once the connection is closed.
            del self._sending[call]
            self._connections.close(call.caller.peer, UNREAD_REPLY)

    def note(self, call: "AdmittedCall", size: int, awaited: int) -> None:
        """Accounts for bytes of a call, and for a change of the bytes that it awaits."""
        self._connections.note(call.caller.peer, size, awaited)

    def begin_sending(self, call: "AdmittedCall") -> None:
        """Starts the time in which the call's reply must be read."""
        self._sending[call] = self._now()

    def end_sending(self, call: "AdmittedCall") -> None:
        """Stops the time."""
        self._sending.pop(call, None)

    def leave(self, call: "AdmittedCall") -> None:
        """Forgets a call that has ended."""
        self.end_sending(call)
        network = call.caller.network
        self._calls[network] -= 1
        if not self._calls[network]:
            del self._calls[network]


class AdmittedCall:
    """A call between its admission and its end.

    Attributes:
        caller: of the call.
    """

    __slots__ = ("_context", "_gate", "_held", "caller")

    def __init__(self, gate: Gate, context: "Context[Any, Any]", caller: Caller) -> None:
        self._gate = gate
        self._context = context
        self._held = 0
        self.caller = caller

    async def read(self) -> Any:
        """Returns the bytes of the next message, or `END_OF_REQUESTS` where the call has no more messages."""
        self._gate.note(self, 0, MESSAGE_BYTES)
        # Of a message that does not come as a whole, any part may have.
        size = MESSAGE_BYTES
        try:
            data = await self._context.read()
            size = 0 if data is END_OF_REQUESTS else len(data)
        finally:
            self._gate.note(self, size, -MESSAGE_BYTES)
        return data

    async def receive(self, limit: int) -> Any:
        """Receives a message within the limits of memory and time.

        Args:
            limit: bytes of the message.

        Returns:
            The bytes, or `END_OF_REQUESTS` where the call has no more messages.

        Raises:
            BusyError: other messages hold too much memory.
            StalledRequestError: the message did not arrive in time.
            QuotaError: the message is larger than the limit.
        """
        seconds = self._gate.request_seconds
        async with self._gate.memory.message(self.caller):
            try:
                async with asyncio.timeout(seconds):
                    data = await self.read()
            except TimeoutError:
                raise StalledRequestError(f"the request did not arrive within {seconds:g} s") from None
        if data is END_OF_REQUESTS:
            return data
        if len(data) > limit:
            raise QuotaError("REQUEST_TOO_LARGE", "request", len(data), limit)
        self._hold(len(data))
        return data

    def begin_reply(self, size: int) -> None:
        """Reserves the memory of a reply, and starts the time in which it must be read.

        The memory of the call's request or last reply is released.

        Raises:
            BusyError: other replies hold too much memory.
        """
        self._hold(_REPLY_COPIES * size)
        self._gate.begin_sending(self)

    def end_reply(self) -> None:
        """Releases the memory of a reply that was read, and stops the time. The end of the call does it too."""
        self._hold(0)
        self._gate.end_sending(self)

    def end(self, _context: object = None) -> None:
        """Ends the call."""
        self._hold(0)
        self._gate.leave(self)

    def _hold(self, size: int) -> None:
        """Holds so many bytes of the budget, and no others."""
        if self._held:
            self._gate.memory.release(self.caller, self._held)
            self._held = 0
        if size > _SMALL:
            self._gate.memory.hold(self.caller, size)
            self._held = size
