"""Observes each call: one trace span, one log line, and the call metrics."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import Any, Final

import grpc
import structlog
from google.rpc import status_pb2

from thetaprime.server.logging import LineLimit
from thetaprime.server.telemetry.metrics import Metrics
from thetaprime.server.telemetry.tracing import CallTracer

_log = structlog.get_logger()


@dataclasses.dataclass
class ObservedCall:
    """A call under observation.

    Attributes:
        code: the status that the call ends with; CANCELLED until another one is set.
        refusal: the details sent to the client, if the call was refused.
    """

    code: grpc.StatusCode = grpc.StatusCode.CANCELLED
    refusal: status_pb2.Status | None = None


class CallObserver:
    """Traces, logs and counts calls.

    Args:
        metrics: counts each call.
        tracer: continues each call's trace.
    """

    _UNLIMITED: Final = (grpc.StatusCode.OK, grpc.StatusCode.INTERNAL)

    def __init__(self, metrics: Metrics, tracer: CallTracer) -> None:
        self._metrics = metrics
        self._tracer = tracer
        self._limit = LineLimit()

    def report_omitted_lines(self) -> None:
        """Logs the number of refused calls that had no line since the last call, by reason. For a periodic task."""
        for reason, count in self._limit.take_omitted().items():
            _log.warning("calls refused", reason=reason, count=count)

    @contextlib.contextmanager
    def observe(self, method: str, context: "grpc.aio.ServicerContext[Any, Any]") -> Iterator[ObservedCall]:
        """Observes a call for the duration of the context.

        Every log line and span of the call's task names the method: gRPC runs each call in a task with its own context
        variables.

        Args:
            method: as gRPC names it, ``/package.Service/Method``.
            context: of the call.

        Yields:
            The call; its `code` and `refusal` are read when the context ends.
        """
        with self._tracer.trace_call(method, context.invocation_metadata) as trace_id:
            structlog.contextvars.bind_contextvars(method=method, **({"trace_id": trace_id} if trace_id else {}))
            call, started = ObservedCall(), time.perf_counter()
            try:
                yield call
            finally:
                seconds = time.perf_counter() - started
                self._metrics.record_call(method, call.code, seconds)
                reason = call.code.name
                if call.refusal is not None:
                    reason = self._metrics.record_refusal(method, call.code, call.refusal)
                if call.code in self._UNLIMITED or self._limit.admits(reason):
                    _log.info("call", code=call.code.name, seconds=round(seconds, 6))
