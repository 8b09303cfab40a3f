"""Wraps every call: refuses it while the server drains, authenticates it, decodes it, maps errors to statuses."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final, NoReturn

import grpc
import structlog
from google.protobuf.message import DecodeError

from thetaprime.server.auth import Authenticator, audit
from thetaprime.server.auth.authenticator import Caller, set_caller
from thetaprime.server.errors import InvalidRequestError, UnauthenticatedError, UnavailableError, error_status
from thetaprime.server.logging import LineLimit
from thetaprime.server.scheduling.rate_limit import RequestRate
from thetaprime.server.telemetry.calls import CallObserver, ObservedCall

_PREFIX: Final = "/thetaprime."
_STATUS_DETAILS: Final = "grpc-status-details-bin"

_Context = grpc.aio.ServicerContext
_Behavior = Callable[..., Awaitable[Any]]

_log = structlog.get_logger()


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in its stubs only
    """Wraps the calls of this package's services; health checks and reflection pass unchanged.

    Args:
        authenticator: finds the tenant of a call.
        observer: traces, logs and counts each call.
    """

    def __init__(self, authenticator: Authenticator, observer: CallObserver) -> None:
        self._authenticator = authenticator
        self._observer = observer
        self._request_rate = RequestRate(authenticator.request_rate)
        self._audit_limit = LineLimit()
        self._draining = False
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def report_omitted_lines(self) -> None:
        """Logs the number of refusals that had no line since the last call, by reason. For a periodic task."""
        self._observer.report_omitted_lines()
        for reason, count in self._audit_limit.take_omitted().items():
            audit.record_refusals(reason, count)

    def drain(self) -> None:
        """Refuses every new call from now on."""
        self._draining = True

    async def finish(self) -> None:
        """Waits until no call is running."""
        await self._idle.wait()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any]"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        """Returns the method's handler, wrapped."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        # gRPC passes None for an unknown method, against its type hints.
        if handler is None or not method.startswith(_PREFIX):
            return handler
        make = (
            grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
        )
        return make(
            self._wrap(method, _decode_first(handler)),
            request_deserializer=None,
            response_serializer=handler.response_serializer,
        )

    def _wrap(self, method: str, behavior: _Behavior) -> Callable[..., Any]:
        async def call(request: Any, context: "_Context[Any, Any]") -> Any:
            with self._count_running(), self._observer.observe(method, context) as observed:
                try:
                    if self._draining:
                        raise UnavailableError("the server is shutting down", retry_after=1.0)
                    self._authenticate(method, context)
                    reply = await behavior(request, context)
                # Every failure of a call becomes a status here.
                except Exception as error:
                    await _abort(context, error, observed)
                observed.code = grpc.StatusCode.OK
                return reply

        return call

    @contextlib.contextmanager
    def _count_running(self) -> Iterator[None]:
        self._running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    def _authenticate(self, method: str, context: "_Context[Any, Any]") -> None:
        """Sets the caller, for the call and for every line that it logs."""
        try:
            tenant = self._authenticator.authenticate(context.invocation_metadata() or ())
        except UnauthenticatedError as error:
            if self._audit_limit.admits(error.reason):
                audit.record_refusal(context.peer(), method, error.reason)
            raise
        set_caller(Caller(tenant, context.peer()))
        structlog.contextvars.bind_contextvars(tenant=tenant)
        self._request_rate.charge(tenant)


async def _abort(context: "_Context[Any, Any]", error: Exception, observed: ObservedCall) -> NoReturn:
    """Ends a call with the status of an error."""
    error_id = uuid.uuid4().hex
    code, status = error_status(error, error_id)
    if code is grpc.StatusCode.INTERNAL:
        _log.exception("internal error", error_id=error_id)
    try:
        await context.abort(code, status.message, ((_STATUS_DETAILS, status.SerializeToString()),))
    # Without AbortError the client has cancelled: gRPC ends the request stream a moment before it cancels the call,
    # and the error of the cut stream reaches no client. That call counts as CANCELLED.
    except grpc.aio.AbortError:
        observed.code, observed.refusal = code, status
        raise


def _decode_first(handler: "grpc.RpcMethodHandler[Any, Any]") -> _Behavior:
    """Returns a handler's behavior for requests as bytes, decoded once the call is authenticated.

    gRPC itself would decode before authentication, and end a call whose bytes are invalid as an internal error.

    The behavior raises `InvalidRequestError` for bytes that are not the method's message.
    """
    decode: Any = handler.request_deserializer
    if handler.request_streaming:
        stream_behavior: Any = handler.stream_unary
        return lambda messages, context: stream_behavior(_DecodedStream(messages, decode), context)
    behavior: Any = handler.unary_unary

    async def call(request: bytes, context: object) -> Any:
        return await behavior(_decode(request, decode), context)

    return call


class _DecodedStream:
    """Decodes the messages of a stream, each when it is requested."""

    def __init__(self, messages: AsyncIterator[bytes], decode: Callable[[bytes], Any]) -> None:
        self._messages = messages
        self._decode = decode

    def __aiter__(self) -> "_DecodedStream":
        return self

    async def __anext__(self) -> Any:
        return _decode(await anext(self._messages), self._decode)


def _decode(data: bytes, decode: Callable[[bytes], Any]) -> Any:
    try:
        return decode(data)
    except DecodeError as error:
        raise InvalidRequestError("request", f"{len(data)} bytes that are not the method's message") from error
