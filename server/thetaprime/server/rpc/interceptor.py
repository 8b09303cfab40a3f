"""Wraps every call: refuses it while the server drains, admits and authenticates it by its headers, maps errors.

gRPC reads the message of a unary call before its handler runs. Here every handler takes a stream, also that of a method
with one message, so that a call which is refused never has its message read. On the wire the two are equal.
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any, Final, NoReturn

import grpc
import structlog

from thetaprime.server.auth import Authenticator, audit
from thetaprime.server.auth.authenticator import DEFAULT_TENANT, Caller, set_caller
from thetaprime.server.errors import (
    ServiceError,
    UnauthenticatedError,
    UnavailableError,
    error_status,
)
from thetaprime.server.logging import LineLimit
from thetaprime.server.rpc.gate import Gate
from thetaprime.server.rpc.requests import Requests
from thetaprime.server.scheduling.rate_limit import RequestRate
from thetaprime.server.store.retries import set_call_deadline
from thetaprime.server.telemetry.calls import CallObserver, ObservedCall

_PREFIX: Final = "/thetaprime."
_STATUS_DETAILS: Final = "grpc-status-details-bin"
# Health checks and calls of reflection, of one address in one second. Load balancers and tools make far fewer, and each
# costs the event loop as much as a call.
_OPEN_CALLS: Final = 100.0

_Context = grpc.aio.ServicerContext
_Handler = grpc.RpcMethodHandler

_log = structlog.get_logger()


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in its stubs only
    """Wraps the calls of every service. Health checks and reflection need no token, and are neither logged nor counted.

    Args:
        authenticator: finds the tenant of a call.
        observer: traces, logs and counts each call.
        gate: limits what a call may cost.
    """

    def __init__(self, authenticator: Authenticator, observer: CallObserver, gate: Gate) -> None:
        self._authenticator = authenticator
        self._observer = observer
        self._request_rate = RequestRate(authenticator.request_rate)
        self._open_rate = RequestRate(
            lambda tenant: min(_OPEN_CALLS, authenticator.request_rate(tenant) or _OPEN_CALLS)
        )
        self._gate = gate
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
        """Refuses every new call from now on, except health checks and reflection."""
        self._draining = True

    async def finish(self) -> None:
        """Waits until no call is running."""
        await self._idle.wait()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["_Handler[Any, Any]"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "_Handler[Any, Any]":
        """Returns the method's handler, wrapped."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        # gRPC passes None for an unknown method, against its type hints.
        if handler is None:
            return grpc.stream_stream_rpc_method_handler(self._refuse_unknown)
        if not method.startswith(_PREFIX):
            return grpc.stream_stream_rpc_method_handler(self._wrap_open(method, handler))
        return grpc.stream_unary_rpc_method_handler(self._wrap(method, handler))

    def _wrap(self, method: str, handler: "_Handler[Any, Any]") -> Callable[..., Awaitable[bytes]]:
        """Wraps a method of this package: one reply, for callers with a token."""
        behavior: Any = handler.stream_unary if handler.request_streaming else handler.unary_unary
        decode: Any = handler.request_deserializer
        serialize: Any = handler.response_serializer

        async def call(_messages: object, context: "_Context[Any, Any]") -> bytes:
            with self._count_running(), self._observer.observe(method, context) as observed:
                caller = Caller(DEFAULT_TENANT, context.peer())
                try:
                    if self._draining:
                        raise UnavailableError("the server is shutting down", retry_after=1.0)
                    caller = self._authenticate(method, caller, context)
                    set_call_deadline(context.time_remaining())
                    admitted = self._gate.admit(context, caller)
                    requests = Requests(method, decode, admitted)
                    request = requests if handler.request_streaming else await requests.only()
                    reply: bytes = serialize(await behavior(request, context))
                    admitted.begin_reply(len(reply))
                except asyncio.CancelledError:
                    self._gate.count_refusal(caller)
                    raise
                # Every failure of a call becomes a status here.
                except Exception as error:
                    await self._abort(context, caller, error, observed)
                observed.code = grpc.StatusCode.OK
                return reply

        return call

    def _wrap_open(self, method: str, handler: "_Handler[Any, Any]") -> Callable[..., Awaitable[None]]:
        """Wraps a method of health checks or reflection: any number of replies, for any caller."""
        decode: Any = handler.request_deserializer
        serialize: Any = handler.response_serializer

        async def call(_messages: object, context: "_Context[Any, Any]") -> None:
            caller, has_replied = Caller(DEFAULT_TENANT, context.peer()), False
            try:
                self._open_rate.charge(caller)
                admitted = self._gate.admit(context, caller)
                requests = Requests(method, decode, admitted)
                async with contextlib.aclosing(_replies(handler, requests, context)) as replies:
                    async for reply in replies:
                        data: bytes = serialize(reply)
                        admitted.begin_reply(len(data))
                        await context.write(data)
                        admitted.end_reply()
                        has_replied = True
            except (asyncio.CancelledError, grpc.aio.AbortError):
                # The end of a watch is no refusal.
                if not has_replied:
                    self._gate.count_refusal(caller)
                raise
            except ServiceError as error:
                await self._abort(context, caller, error, ObservedCall())

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

    async def _refuse_unknown(self, _messages: object, context: "_Context[Any, Any]") -> None:
        self._gate.count_refusal(Caller(DEFAULT_TENANT, context.peer()))
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this server has no such method")

    def _authenticate(self, method: str, stranger: Caller, context: "_Context[Any, Any]") -> Caller:
        """Returns the caller with its tenant, and sets it for the call and for every line that the call logs."""
        try:
            tenant = self._authenticator.authenticate(context.invocation_metadata() or ())
        except UnauthenticatedError as error:
            if self._audit_limit.admits(error.reason):
                audit.record_refusal(stranger.peer, method, error.reason)
            raise
        caller = Caller(tenant, stranger.peer)
        set_caller(caller)
        structlog.contextvars.bind_contextvars(tenant=tenant)
        self._request_rate.charge(caller)
        return caller

    async def _abort(
        self, context: "_Context[Any, Any]", caller: Caller, error: Exception, observed: ObservedCall
    ) -> NoReturn:
        """Ends a call with the status of an error."""
        error_id = uuid.uuid4().hex
        code, status = error_status(error, error_id)
        if code is grpc.StatusCode.INTERNAL:
            _log.exception("internal error", error_id=error_id)
        # A server that drains, or whose store fails, refuses every client.
        if code is not grpc.StatusCode.UNAVAILABLE:
            self._gate.count_refusal(caller)
        try:
            await context.abort(code, status.message, ((_STATUS_DETAILS, status.SerializeToString()),))
        # Without AbortError the client has cancelled: gRPC ends the request stream a moment before it cancels the call,
        # and the error of the cut stream reaches no client. That call counts as CANCELLED.
        except grpc.aio.AbortError:
            observed.code, observed.refusal = code, status
            raise


async def _replies(handler: "_Handler[Any, Any]", requests: Requests, context: object) -> AsyncGenerator[Any, None]:
    """Yields the replies of a handler of any kind."""
    if handler.request_streaming:
        argument, stream, single = requests, handler.stream_stream, handler.stream_unary
    else:
        argument, stream, single = await requests.only(), handler.unary_stream, handler.unary_unary
    behavior: Any = stream if handler.response_streaming else single
    if handler.response_streaming:
        async with contextlib.aclosing(behavior(argument, context)) as replies:
            async for reply in replies:
                yield reply
    else:
        yield await behavior(argument, context)
