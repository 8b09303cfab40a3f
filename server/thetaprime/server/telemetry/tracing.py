"""OpenTelemetry spans of calls, when the setting `tracing` is on.

OpenTelemetry is imported only then. Otherwise `span` costs one read of a context variable.
"""

import contextlib
import contextvars
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from thetaprime.server.errors import StartupError

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

P = ParamSpec("P")
R = TypeVar("R")

_NAME: Final = "thetaprime.server"
_EXPORT_SECONDS: Final = 2.0
_OFF: Final = contextlib.nullcontext()
_tracer: "contextvars.ContextVar[Tracer | None]" = contextvars.ContextVar("tracer", default=None)


def span(name: str) -> "contextlib.AbstractContextManager[Any]":
    """Returns a child span of the current call's span, or a null context if the call is not traced."""
    tracer = _tracer.get()
    return _OFF if tracer is None else tracer.start_as_current_span(name)


def traced(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Returns a decorator that runs a function in a span."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            with span(name):
                return function(*args, **kwargs)

        return run

    return decorate


class CallTracer:
    """Continues the trace of the client's call, from its W3C ``traceparent`` header.

    Args:
        enabled: whether to record spans.

    Raises:
        StartupError: OpenTelemetry is not installed.
    """

    def __init__(self, enabled: bool) -> None:
        self._tracer: Tracer | None = None
        if not enabled:
            return
        try:
            from opentelemetry import trace
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ModuleNotFoundError as error:
            raise StartupError("tracing needs the tracing extra: pip install 'thetaprime[tracing]'") from error
        self._kind = trace.SpanKind.SERVER
        self._extract = TraceContextTextMapPropagator().extract
        # The process's tracer provider: set by `export_spans`, or by the program that embeds this server.
        self._tracer = trace.get_tracer(_NAME)

    @contextlib.contextmanager
    def trace_call(
        self, method: str, metadata: Callable[[], Iterable[tuple[str, str | bytes]] | None]
    ) -> Iterator[str]:
        """Records a span for a call, for the duration of the context.

        Args:
            method: as gRPC names it, ``/package.Service/Method``.
            metadata: returns the call's metadata.

        Yields:
            The trace id in hexadecimal digits; empty if tracing is off.
        """
        if self._tracer is None:
            yield ""
            return
        parent = self._extract({key: value for key, value in metadata() or () if isinstance(value, str)})
        token = _tracer.set(self._tracer)
        try:
            with self._tracer.start_as_current_span(method.lstrip("/"), parent, self._kind) as current:
                yield f"{current.get_span_context().trace_id:032x}"
        finally:
            _tracer.reset(token)


@contextlib.contextmanager
def export_spans() -> Iterator[None]:
    """Exports this process's spans by OTLP, as OpenTelemetry's environment variables configure it. For entry points.

    Raises:
        StartupError: OpenTelemetry is not installed.
    """
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise StartupError("tracing needs the tracing extra: pip install 'thetaprime[tracing]'") from error
    name = os.environ.get("OTEL_SERVICE_NAME", "thetaprime")
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    # OpenTelemetry's default of ten seconds per attempt would delay the server's stop when no collector answers.
    timeout = float(os.environ.get("OTEL_EXPORTER_OTLP_TIMEOUT", _EXPORT_SECONDS))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=timeout)))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()
