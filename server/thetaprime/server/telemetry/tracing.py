"""OpenTelemetry spans of a call, where the server is told to record them.

Nothing of OpenTelemetry is imported until then: `span` is one look at a context variable.
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
    """A span within the current call's, if that is traced."""
    tracer = _tracer.get()
    return _OFF if tracer is None else tracer.start_as_current_span(name)


def traced(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator that runs a function in a span."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            with span(name):
                return function(*args, **kwargs)

        return run

    return decorate


class CallTracer:
    """Continues the trace that a client's call belongs to, by its W3C ``traceparent``.

    Args:
        enabled: otherwise a call is merely let through.

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
        # Of the process's provider: `export_spans` sets one up, or the program that embeds this server has its own.
        self._tracer = trace.get_tracer(_NAME)

    @contextlib.contextmanager
    def call(self, method: str, metadata: Callable[[], Iterable[tuple[str, str | bytes]] | None]) -> Iterator[str]:
        """Around a call.

        Args:
            method: as gRPC names it, ``/package.Service/Method``.
            metadata: gives what the client sent along.

        Yields:
            The id of its trace in hexadecimal digits; empty where it is not traced.
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
def exported_spans() -> Iterator[None]:
    """Sends the spans of this process to where OpenTelemetry's environment variables say. For entry points.

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
    # A collector that does not answer must not keep a server from stopping, as ten seconds at each attempt would.
    timeout = float(os.environ.get("OTEL_EXPORTER_OTLP_TIMEOUT", _EXPORT_SECONDS))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=timeout)))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()
