"""OpenTelemetry spans of the client's calls, and the header that links the server's spans to them.

OpenTelemetry is imported only by a client with ``tracing=True``.
"""

import contextlib
from typing import Any, Final, Protocol

from thetaprime.client._errors import InvalidInputError

_NAME: Final = "thetaprime.client"
_OFF: Final = contextlib.nullcontext()


class Tracing:
    """Records the spans of one client with the program's tracer provider.

    Args:
        enabled: whether to record spans.

    Raises:
        InvalidInputError: OpenTelemetry is not installed.
    """

    def __init__(self, enabled: bool) -> None:
        self._tracer: Any = None
        if not enabled:
            return
        try:
            from opentelemetry import trace
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ModuleNotFoundError as error:
            raise InvalidInputError.at("tracing", "needs an extra: pip install 'thetaprime[tracing]'") from error
        self._tracer = trace.get_tracer(_NAME)
        self._kind = trace.SpanKind.CLIENT
        self._inject = TraceContextTextMapPropagator().inject

    def span(self, name: str) -> "contextlib.AbstractContextManager[Any]":
        """Returns a context manager that records a child of the current span."""
        if self._tracer is None:
            return _OFF
        span: contextlib.AbstractContextManager[Any] = self._tracer.start_as_current_span(name, kind=self._kind)
        return span

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Returns the metadata that names the current span to the server: W3C ``traceparent``."""
        if self._tracer is None:
            return ()
        carrier: dict[str, str] = {}
        self._inject(carrier)
        return tuple(carrier.items())


class _Transport(Protocol):
    @property
    def tracing(self) -> Tracing: ...


class Traced(Protocol):
    """An object whose methods `runtime.traced` records."""

    @property
    def _transport(self) -> _Transport: ...
