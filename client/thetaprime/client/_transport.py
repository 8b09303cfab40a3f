"""The channel to the server: its options, its deadline and its retries."""

import json
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import grpc

from thetaprime.client._credentials import token_metadata
from thetaprime.client._errors import InvalidInputError, LimitError, from_rpc_error
from thetaprime.client._tracing import Tracing
from thetaprime.v1 import adaptation_service_pb2_grpc, meta_policy_service_pb2_grpc

_MESSAGE_BYTES: Final = 64 << 20
# Every call of the contract is safe to repeat, so an interrupted one is sent again on its own.
_SERVICE_CONFIG: Final = {
    "methodConfig": [
        {
            "name": [{"service": "thetaprime.v1.AdaptationService"}, {"service": "thetaprime.v1.MetaPolicyService"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
CHANNEL_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # An upload is a stream: it can be repeated only while all of it is still held here.
    ("grpc.per_rpc_retry_buffer_size", _MESSAGE_BYTES),
    # A server that restarts is found again within the retries above.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
"""Options of a channel to a ThetaPrime server, for those who bring their own channel."""

_BACKOFF_SECONDS: Final = 0.1
_BACKOFF_GROWTH: Final = 2.0
_JITTER: Final = 0.25

_Response = TypeVar("_Response")


class Transport:
    """A channel, its stubs and the deadline of every call. Connects at the first call."""

    def __init__(
        self,
        address: str,
        *,
        timeout: float,
        credentials: grpc.ChannelCredentials | None = None,
        channel: grpc.Channel | None = None,
        token: str | None = None,
        allow_plaintext: bool = False,
        tracing: bool = False,
    ) -> None:
        if not timeout > 0:
            raise InvalidInputError.at("timeout", f"{timeout!r}; expected a positive number of seconds")
        self.address = address
        self.timeout = timeout
        # Whether a channel that was brought from outside is secure is its owner's to know.
        readable = credentials is None and channel is None and not allow_plaintext
        self._metadata = token_metadata(token, address, readable=readable)
        self.tracing = Tracing(tracing)
        self._owned = channel is None
        if channel is None:
            channel = (
                grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
                if credentials is None
                else grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
            )
        self._channel = channel
        self.adaptation = adaptation_service_pb2_grpc.AdaptationServiceStub(channel)
        self.meta_policies = meta_policy_service_pb2_grpc.MetaPolicyServiceStub(channel)

    def call(self, method: Callable[..., _Response], request: object) -> _Response:
        """Sends one message and waits for the answer.

        Raises:
            ThetaPrimeError: the call failed.
        """
        return self._repeat(method, lambda: request)

    def stream(self, method: Callable[..., _Response], messages: Callable[[], Iterator[object]]) -> _Response:
        """Sends several messages and waits for the answer.

        Args:
            method: what to call.
            messages: gives all of them anew each time that they are to be sent.

        Raises:
            ThetaPrimeError: the call failed.
        """
        return self._repeat(method, messages)

    def _repeat(self, method: Callable[..., _Response], request: Callable[[], object]) -> _Response:
        """Sends a request, and again where the server says when, as long as the one deadline allows.

        A server that is unavailable is gRPC's to call again (`_SERVICE_CONFIG`); all that it does is one attempt.
        """
        deadline, pause = time.monotonic() + self.timeout, _BACKOFF_SECONDS
        while True:
            try:
                return self._send(method, request(), deadline - time.monotonic())
            except LimitError as error:
                if error.retry_after is None:
                    raise
                # Never before the server's time, and not all the clients that it told the same at the same moment.
                wait = max(error.retry_after, pause) * (1.0 + _JITTER * random.random())  # noqa: S311
                if time.monotonic() + wait >= deadline:
                    raise
            time.sleep(wait)
            pause *= _BACKOFF_GROWTH

    def _send(self, method: Callable[..., _Response], request: object, timeout: float) -> _Response:
        try:
            return method(request, timeout=timeout, metadata=(*self._metadata, *self.tracing.headers()))
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.address) from error
        except ValueError as error:  # gRPC's word for a channel that was closed
            raise InvalidInputError(f"the client of {self.address} is closed: {error}") from error

    def close(self) -> None:
        """Closes the channel, unless it was brought from outside."""
        if self._owned:
            self._channel.close()
