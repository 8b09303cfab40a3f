"""Around every call: refuses it while draining, ends it with the right status, logs it, and counts it."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
import structlog

from thetaprime.server.auth import Authenticator, audit
from thetaprime.server.auth.caller import Caller, set_caller
from thetaprime.server.errors import UnauthenticatedError, UnavailableError, error_status
from thetaprime.server.rpc.decoding import decoding
from thetaprime.server.telemetry.metrics import Metrics
from thetaprime.server.telemetry.tracing import CallTracer

_PREFIX: Final = "/thetaprime."
_STATUS_DETAILS: Final = "grpc-status-details-bin"

_log = structlog.get_logger()


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in its stubs only
    """Wraps the calls of this package's services; health checks and reflection pass as they are.

    Args:
        gate: finds out whose a call is.
        metrics: counts each call.
        tracer: continues each call's trace.
    """

    def __init__(self, gate: Authenticator, metrics: Metrics, tracer: CallTracer) -> None:
        self._gate = gate
        self._metrics = metrics
        self._tracer = tracer
        self._draining = False
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def drain(self) -> None:
        """Refuses every call from now on."""
        self._draining = True

    async def finish(self) -> None:
        """Waits until no call is running."""
        await self._idle.wait()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any]"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        """Gives the method's handler, wrapped."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        # An unknown method has no handler, whatever the library's types say.
        if handler is None or not method.startswith(_PREFIX):
            return handler
        make = (
            grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
        )
        return make(
            self._named(method, self._wrapped(method, decoding(handler))),
            request_deserializer=None,
            response_serializer=handler.response_serializer,
        )

    def _named(self, method: str, behavior: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        """Puts the method, and the trace if there is one, on every line and span that the call leaves behind."""

        async def call(request: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> Any:
            # gRPC gives each call a task of its own, so nothing of this is seen by others.
            with self._tracer.call(method, context.invocation_metadata) as trace_id:
                structlog.contextvars.bind_contextvars(method=method, **({"trace_id": trace_id} if trace_id else {}))
                return await behavior(request, context)

        return call

    def _wrapped(self, method: str, behavior: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        async def call(request: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> Any:
            started, code = time.perf_counter(), grpc.StatusCode.CANCELLED
            self._running += 1
            self._idle.clear()
            try:
                if self._draining:
                    raise UnavailableError("the server is shutting down", retry_after=1.0)
                self._let_in(method, context)
                reply = await behavior(request, context)
                code = grpc.StatusCode.OK
                return reply
            # The one place where every failure of a call becomes a status.
            except Exception as error:
                error_id = uuid.uuid4().hex
                refusal, status = error_status(error, error_id)
                if refusal is grpc.StatusCode.INTERNAL:
                    _log.exception("internal error", error_id=error_id)
                try:
                    await context.abort(refusal, status.message, ((_STATUS_DETAILS, status.SerializeToString()),))
                # A stream that its client cancels ends, as gRPC tells it, a moment before the call is cancelled: what
                # is wrong with it then is nobody's to be told, and the call is a cancelled one.
                except grpc.aio.AbortError:
                    code = refusal
                    self._metrics.call_refused(method, refusal, status)
                    raise
            finally:
                seconds = time.perf_counter() - started
                self._metrics.call_ended(method, code, seconds)
                _log.info("call", code=code.name, seconds=round(seconds, 6))
                self._running -= 1
                if not self._running:
                    self._idle.set()

        return call

    def _let_in(self, method: str, context: "grpc.aio.ServicerContext[Any, Any]") -> None:
        """Finds out who calls, for the call itself and for all that it logs."""
        try:
            tenant = self._gate.tenant_of(context.invocation_metadata() or ())
        except UnauthenticatedError as error:
            audit.record_refusal(context.peer(), method, error.reason)
            raise
        set_caller(Caller(tenant, context.peer()))
        structlog.contextvars.bind_contextvars(tenant=tenant)
