"""OpenTelemetry spans of what the client does, and the header that lets the server's join them.

Nothing of OpenTelemetry is imported unless a client is made with ``tracing=True``.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

from thetaprime.client._errors import InvalidInputError

_NAME: Final = "thetaprime.client"
_OFF: Final = contextlib.nullcontext()


class Tracing:
    """The spans of one client, recorded by the program's tracer provider.

    Args:
        enabled: whether there are any.

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
        """A span within the current one."""
        if self._tracer is None:
            return _OFF
        span: contextlib.AbstractContextManager[Any] = self._tracer.start_as_current_span(name, kind=self._kind)
        return span

    def headers(self) -> tuple[tuple[str, str], ...]:
        """The metadata that names the current span to the server: W3C ``traceparent``."""
        if self._tracer is None:
            return ()
        carrier: dict[str, str] = {}
        self._inject(carrier)
        return tuple(carrier.items())


class _Transport(Protocol):
    @property
    def tracing(self) -> Tracing: ...


class _Traced(Protocol):
    @property
    def _transport(self) -> _Transport: ...


S = TypeVar("S", bound=_Traced)
P = ParamSpec("P")
R = TypeVar("R")


def traced(name: str) -> Callable[[Callable[Concatenate[S, P], R]], Callable[Concatenate[S, P], R]]:
    """A decorator that runs a method in a span."""

    def decorate(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
        @functools.wraps(method)
        def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
            with self._transport.tracing.span(name):
                return method(self, *args, **kwargs)

        return run

    return decorate
