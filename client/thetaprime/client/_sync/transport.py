# Generated from _async/transport.py by `make sync-client`. Edit that one.
"""The channel to the server: its options, its deadline and its retries."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import grpc

from thetaprime.client._errors import InvalidInputError, LimitError, from_rpc_error
from thetaprime.client._rpc.channel import Backoff, check_address
from thetaprime.client._rpc.credentials import token_metadata
from thetaprime.client._rpc.tracing import Tracing
from thetaprime.client._sync import runtime

_Response = TypeVar("_Response")


class Transport:
    """A channel, its stubs and the deadline of every call. Connects at the first call."""

    def __init__(
        self,
        address: str,
        *,
        timeout: float,
        credentials: grpc.ChannelCredentials | None = None,
        channel: runtime.Channel | None = None,
        token: str | None = None,
        allow_plaintext: bool = False,
        tracing: bool = False,
    ) -> None:
        if not timeout > 0:
            raise InvalidInputError.at("timeout", f"{timeout!r}; expected a positive number of seconds")
        if channel is None:
            check_address(address)
        self.address = address
        self.timeout = timeout
        # Whether a channel that was brought from outside is secure is its owner's to know.
        readable = credentials is None and channel is None and not allow_plaintext
        self._metadata = token_metadata(token, address, readable=readable)
        self.tracing = Tracing(tracing)
        self._credentials = credentials
        self._owned = channel is None
        self._channel = channel
        self._stubs: runtime.Stubs | None = None
        self._closed = False
        self._lock = threading.Lock()

    @property
    def adaptation(self) -> runtime.AdaptationStub:
        """The methods of the adaptation service."""
        return (self._stubs or self._open()).adaptation

    @property
    def meta_policies(self) -> runtime.MetaPolicyStub:
        """The methods of the catalog."""
        return (self._stubs or self._open()).meta_policies

    def call(self, method: runtime.Method[_Response], request: object, timeout: float | None = None) -> _Response:
        """Sends one message and waits for the answer.

        Args:
            method: what to call.
            request: the message.
            timeout: seconds until the call is given up; None is the client's, which is never exceeded.

        Raises:
            ThetaPrimeError: the call failed.
        """
        return self._repeat(method, lambda: request, timeout)

    def stream(
        self,
        method: runtime.Method[_Response],
        messages: Callable[[], Iterator[object]],
        timeout: float | None = None,
    ) -> _Response:
        """Sends several messages and waits for the answer.

        Args:
            method: what to call.
            messages: gives all of them anew each time that they are to be sent.
            timeout: as `call`'s.

        Raises:
            ThetaPrimeError: the call failed.
        """
        return self._repeat(method, messages, timeout)

    def _repeat(
        self, method: runtime.Method[_Response], request: Callable[[], object], timeout: float | None
    ) -> _Response:
        """Sends a request, and again where the server says when, as long as the one deadline allows.

        A server that is unavailable is gRPC's to call again (its service configuration); all that it does is one
        attempt.
        """
        seconds = self.timeout if timeout is None else min(timeout, self.timeout)
        deadline, backoff = time.monotonic() + seconds, Backoff()
        while True:
            try:
                return self._send(method, request(), deadline - time.monotonic())
            except LimitError as error:
                wait = backoff.after(error)
                if time.monotonic() + wait >= deadline:
                    raise
            runtime.sleep(wait)

    def _send(self, method: runtime.Method[_Response], request: object, timeout: float) -> _Response:
        metadata = (*self._metadata, *self.tracing.headers())
        try:
            return method(request, timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.address) from error
        except runtime.CLOSED as error:
            raise InvalidInputError(f"the client of {self.address} is closed: {error}") from error

    def close(self) -> None:
        """Closes the channel, unless it was brought from outside."""
        with self._lock:
            channel, self._closed = self._channel, True
        if self._owned and channel is not None:
            runtime.close_channel(channel)

    def _open(self) -> runtime.Stubs:
        # Not in the constructor: a channel of coroutines belongs to the event loop that runs when it is made.
        with self._lock:
            if self._stubs is None:
                if self._channel is None:
                    if self._closed:
                        raise InvalidInputError(f"the client of {self.address} is closed")
                    self._channel = runtime.open_channel(self.address, self._credentials)
                self._stubs = runtime.Stubs(self._channel)
            return self._stubs
