"""The service without gRPC: calls go through interceptor, servicers, engine and store in this process.

For tests that make very many calls, or that set the clock. The test passes bytes and metadata, and gets a reply or a
status, as gRPC would.
"""

import asyncio
import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any, Final, Self, cast

import grpc
import structlog
from google.rpc import error_details_pb2, status_pb2

from thetaprime.server import ServerConfig
from thetaprime.server.adaptation.commit import take_round
from thetaprime.server.adaptation.engine import AdaptationEngine
from thetaprime.server.adaptation.precompute import precompute_step
from thetaprime.server.auth import Authenticator, Quotas
from thetaprime.server.catalog.catalog import Catalog
from thetaprime.server.logging import configure_logging
from thetaprime.server.rpc.adaptation_service import AdaptationServicer
from thetaprime.server.rpc.connections import Connections
from thetaprime.server.rpc.gate import END_OF_REQUESTS, MESSAGE_BYTES, Gate
from thetaprime.server.rpc.interceptor import CallInterceptor
from thetaprime.server.rpc.meta_policy_service import MetaPolicyServicer
from thetaprime.server.scheduling.fair_slots import FairSlots, FairThreads
from thetaprime.server.scheduling.memory_budget import MemoryBudget
from thetaprime.server.scheduling.rate_limit import RateLimit
from thetaprime.server.store import Store
from thetaprime.server.telemetry.calls import CallObserver
from thetaprime.server.telemetry.metrics import Metrics
from thetaprime.server.telemetry.tracing import CallTracer
from thetaprime.v1 import adaptation_service_pb2_grpc, meta_policy_service_pb2_grpc

Metadata = Sequence[tuple[str, str | bytes]]
_DETAILS: Final = "grpc-status-details-bin"


class RefusedError(grpc.aio.AbortError):
    """The status of a refused call.

    Attributes:
        code: the status code.
        reason: the reason of its ErrorInfo; empty where there is none.
    """

    def __init__(self, code: grpc.StatusCode, message: str, trailing: Metadata) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.reason = ""
        for detail in status_pb2.Status.FromString(cast("bytes", dict(trailing)[_DETAILS])).details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                self.reason = info.reason


class ServiceWithoutWire:
    """A service on a store, for as long as a `with` lasts. Afterwards the store may be opened again.

    Args:
        config: limits, store, zoo and tokens.
        now: the store's clock, in microseconds since 1970; by default the system's.

    Attributes:
        store: the durable state.
    """

    def __init__(self, config: ServerConfig, now: Callable[[], int] | None = None) -> None:
        if not structlog.is_configured():
            configure_logging(logging.WARNING)
        clock: dict[str, Any] = {} if now is None else {"now": now}
        self.store = Store(config.store, row_bytes=config.row_bytes, **clock)
        catalog, authenticator = Catalog.load(config.zoo), Authenticator(config.tokens, Quotas.defaults(config))
        metrics, inline = Metrics(), FairThreads(FairSlots(1), _Inline())
        self._engine = AdaptationEngine(
            functools.partial(take_round, self.store, catalog, metrics),
            precompute=functools.partial(precompute_step, self.store, metrics),
            processors=inline,
            threads=1,
            queue=config.queue,
            rate_limit=RateLimit(authenticator.adaptation_rate),
        )
        memory = MemoryBudget(config.max_inflight_bytes, message_bytes=MESSAGE_BYTES)
        gate = Gate(
            memory,
            Connections(config.max_address_connections, metrics),
            max_address_calls=config.max_address_calls,
            request_seconds=config.request_seconds,
            reply_seconds=config.reply_seconds,
        )
        self._calls = CallInterceptor(authenticator, CallObserver(metrics, CallTracer(config.tracing)), gate)
        self._handlers = _Handlers()
        server = cast("grpc.Server", self._handlers)
        adaptation_service_pb2_grpc.add_AdaptationServiceServicer_to_server(
            AdaptationServicer(
                config, self.store, catalog, self._engine, inline, inline, inline, authenticator, memory
            ),
            server,
        )
        meta_policy_service_pb2_grpc.add_MetaPolicyServiceServicer_to_server(
            MetaPolicyServicer(catalog, inline), server
        )
        self._loop = asyncio.new_event_loop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.close()
        self._engine.close()
        self.store.close()

    @property
    def methods(self) -> tuple[str, ...]:
        """All methods, sorted by name."""
        return tuple(sorted(self._handlers.by_name))

    def call(self, method: str, messages: Iterable[bytes], metadata: Metadata = ()) -> bytes:
        """Calls any method; a method that takes one message gets the bytes of all of them.

        Raises:
            RefusedError: the status was not OK.
        """
        return self._loop.run_until_complete(self._serve(method, messages, metadata))

    async def _serve(self, method: str, messages: Iterable[bytes], metadata: Metadata) -> bytes:
        path, found = self._handlers.by_name[method]

        async def continuation(details: grpc.HandlerCallDetails) -> Any:
            return found

        details = cast("grpc.HandlerCallDetails", _Details(path, metadata))
        handler: Any = await self._calls.intercept_service(continuation, details)
        context = _Context(metadata, iter(messages if found.request_streaming else [b"".join(messages)]))
        try:
            return bytes(await handler.stream_unary(None, context))
        finally:
            context.end()


class _Context:
    """The parts of a call's context that the service uses."""

    def __init__(self, metadata: Metadata, messages: Iterator[bytes]) -> None:
        self._metadata = metadata
        self._messages = messages
        self._callbacks: list[Callable[[Any], None]] = []

    async def read(self) -> object:
        return next(self._messages, END_OF_REQUESTS)

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    def end(self) -> None:
        for callback in self._callbacks:
            callback(self)

    def invocation_metadata(self) -> Metadata:
        return self._metadata

    def peer(self) -> str:
        return "this process"

    def time_remaining(self) -> None:
        """Returns that the call has no deadline."""

    def cancelled(self) -> bool:
        return False

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: Metadata) -> None:
        details.encode()  # gRPC refuses a text that UTF-8 cannot encode
        raise RefusedError(code, details, trailing_metadata)


class _Details:
    def __init__(self, method: str, metadata: Metadata) -> None:
        self.method, self.invocation_metadata = method, metadata


class _Handlers:
    """Collects the methods that generated code registers."""

    def __init__(self) -> None:
        self.by_name: dict[str, tuple[str, Any]] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Ignores the methods: generated code registers them in both ways."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        for name, handler in handlers.items():
            self.by_name[name] = f"/{service}/{name}", handler


class _Inline(Executor):
    """Runs each function at once: calls run one after the other, and a fuzzer sees their coverage."""

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future
