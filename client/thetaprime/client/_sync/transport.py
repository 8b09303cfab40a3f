# Generated from _async/transport.py by `make sync-client`: edit that file.
"""Sends requests: opens the channel, sets the deadline, and retries."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import grpc

from thetaprime.client._errors import (
    InvalidInputError,
    LimitError,
    ServerError,
    ThetaPrimeError,
    UnreachableError,
    from_rpc_error,
)
from thetaprime.client._rpc.channel import ATTEMPTS, BACKOFF, RETRYABLE, check_address
from thetaprime.client._rpc.credentials import token_metadata
from thetaprime.client._rpc.tracing import Tracing
from thetaprime.client._sync import runtime

_Response = TypeVar("_Response")
_FIRST_PAUSE_SECONDS: Final = 0.1
_PAUSE_GROWTH: Final = 2.0
_JITTER: Final = 0.25


def _is_retryable(error: ThetaPrimeError) -> bool:
    call = error.__cause__
    return isinstance(call, grpc.Call | grpc.aio.AioRpcError) and call.code() in RETRYABLE


class Transport:
    """Sends the requests of one client. Connects at the first call."""

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
        # The owner of a given channel decides whether the channel is secure.
        readable = credentials is None and channel is None and not allow_plaintext
        self._metadata = token_metadata(token, address, readable=readable)
        self.tracing = Tracing(tracing)
        self._credentials = credentials
        self._owned = channel is None
        self._channel = channel
        self._stubs: runtime.Stubs | None = None
        self._closed = False
        # A server that has answered this client comes back, as after a restart; any other may be at another address.
        self._answered = False
        self._lock = threading.Lock()

    @property
    def adaptation(self) -> runtime.AdaptationStub:
        """The stub of the adaptation service."""
        return (self._stubs or self._open()).adaptation

    @property
    def meta_policies(self) -> runtime.MetaPolicyStub:
        """The stub of the meta-policy service."""
        return (self._stubs or self._open()).meta_policies

    def call(self, method: runtime.Method[_Response], request: object, timeout: float | None = None) -> _Response:
        """Sends one message and returns the response.

        Args:
            method: a stub's method.
            request: the message.
            timeout: the call's timeout in seconds, at most the client's; None uses the client's.

        Raises:
            ThetaPrimeError: the call failed.
        """
        return self._retry(method, lambda: request, timeout, attempts=1)

    def stream(
        self,
        method: runtime.Method[_Response],
        messages: Callable[[], Iterator[object]],
        timeout: float | None = None,
    ) -> _Response:
        """Sends a stream of messages and returns the response.

        Args:
            method: a stub's method.
            messages: returns the messages from the start, for each attempt.
            timeout: as `call`'s.

        Raises:
            ThetaPrimeError: the call failed.
        """
        return self._retry(method, messages, timeout, attempts=ATTEMPTS)

    def _retry(
        self, method: runtime.Method[_Response], request: Callable[[], object], timeout: float | None, attempts: int
    ) -> _Response:
        """Sends a request, and retries it after a refusal with a retry time, within one deadline.

        Args:
            method: a stub's method.
            request: returns the request from its start.
            timeout: as `call`'s.
            attempts: for a server that is unavailable or drops the call. gRPC itself retries a call of one message
                (its service configuration), within one of these attempts. A server that has answered this client and
                is away is waited for until the deadline.
        """
        seconds = self.timeout if timeout is None else min(timeout, self.timeout)
        deadline, pause = time.monotonic() + seconds, _FIRST_PAUSE_SECONDS
        backoff, longest, growth = BACKOFF
        while True:
            try:
                response = self._send(method, request(), deadline - time.monotonic())
            except LimitError as error:
                if error.retry_after is None:
                    raise
                # Never before the server's time.
                wait = max(error.retry_after, pause)
                pause *= _PAUSE_GROWTH
                failure: ThetaPrimeError = error
            except (UnreachableError, ServerError) as error:
                attempts -= 1
                away = self._answered and isinstance(error, UnreachableError) and not error.reason
                if not _is_retryable(error) or not (away or attempts > 0):
                    raise
                wait, backoff = backoff, min(backoff * growth, longest)
                failure = error
            else:
                self._answered = True
                return response
            # The jitter spreads clients that were refused together.
            wait *= 1.0 + _JITTER * random.random()  # noqa: S311
            if time.monotonic() + wait >= deadline:
                raise failure
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
        """Closes the channel, unless the caller opened it."""
        with self._lock:
            channel, self._closed = self._channel, True
        if self._owned and channel is not None:
            runtime.close_channel(channel)

    def _open(self) -> runtime.Stubs:
        # Not in the constructor: an asynchronous channel belongs to the event loop that runs when it is opened.
        with self._lock:
            if self._stubs is None:
                if self._channel is None:
                    if self._closed:
                        raise InvalidInputError(f"the client of {self.address} is closed")
                    self._channel = runtime.open_channel(self.address, self._credentials)
                self._stubs = runtime.Stubs(self._channel)
            return self._stubs
