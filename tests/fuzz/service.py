"""The whole service without a wire: what a client sends along and the bytes of its messages in, the status out."""

import asyncio
import contextlib
import datetime
import logging
import tempfile
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, cast

import grpc
import structlog

from tests.server.conftest import NAME, write_point_artifact, write_tokens
from thetaprime.server import ServerConfig
from thetaprime.server.adaptation import take_round
from thetaprime.server.calls import CallInterceptor
from thetaprime.server.catalog import Catalog
from thetaprime.server.engine import AdaptationEngine
from thetaprime.server.log import configure_logging
from thetaprime.server.servicers import AdaptationServicer, MetaPolicyServicer
from thetaprime.server.store import Store, tables
from thetaprime.server.telemetry.metrics import Metrics
from thetaprime.server.telemetry.tracing import CallTracer
from thetaprime.server.trust import Gate, Quotas
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import adaptation_service_pb2_grpc, meta_policy_service_pb2_grpc

SESSION: Final = "s"
"""The one session that there is."""
TOKEN: Final = "theta_fuzz"
AUTHORIZED: Final = (("authorization", f"Bearer {TOKEN}"),)
_TENANT: Final = "tenant"
Metadata = Sequence[tuple[str, str | bytes]]


class Service:
    """Calls by name. What a call changed is undone after it, so that each finds the same state."""

    def __init__(self) -> None:
        if not structlog.is_configured():
            configure_logging(logging.WARNING)
        self._folder = tempfile.TemporaryDirectory(prefix="thetaprime-fuzz-")
        folder = Path(self._folder.name)
        write_point_artifact(folder / "zoo")
        tokens = write_tokens(folder / "tokens.toml", {TOKEN: _TENANT})
        config = ServerConfig(
            store=folder / "store", zoo=(folder / "zoo",), max_upload_bytes=1 << 20, max_inflight_bytes=1 << 20
        )
        self._store, catalog = Store(config.store), Catalog.load(config.zoo)
        gate = Gate(tokens, Quotas.defaults(config), now=lambda: datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
        engine = AdaptationEngine(
            lambda call: take_round(self._store, catalog, call), workers=1, queue=1, pace=lambda tenant: None
        )
        self._calls = CallInterceptor(gate, Metrics(config), CallTracer(enabled=True))
        self._handlers = _Handlers()
        adaptation_service_pb2_grpc.add_AdaptationServiceServicer_to_server(
            AdaptationServicer(config, self._store, catalog, engine, cast("ThreadPoolExecutor", _Inline()), gate),
            cast("grpc.Server", self._handlers),
        )
        meta_policy_service_pb2_grpc.add_MetaPolicyServiceServicer_to_server(
            MetaPolicyServicer(catalog), cast("grpc.Server", self._handlers)
        )
        self._loop = asyncio.new_event_loop()
        request = service_pb.CreateSessionRequest(request_id="r", meta_policy=NAME).SerializeToString()
        reply = service_pb.CreateSessionResponse.FromString(self._answer("CreateSession", [request], AUTHORIZED))
        self.policy = reply.policy
        renamed = tables.sessions.update().values(session_id=SESSION)
        with self._store.writing() as connection:
            connection.execute(renamed)
            self._session = dict(connection.execute(tables.sessions.select()).mappings().one())

    @property
    def methods(self) -> tuple[str, ...]:
        """By name, in one order."""
        return tuple(sorted(self._handlers.by_name))

    def call(self, method: str, messages: Iterable[bytes], metadata: Metadata = AUTHORIZED) -> grpc.StatusCode:
        """How a call ends.

        Raises:
            AssertionError: as an internal error.
            Exception: or not at all.
        """
        try:
            self._answer(method, messages, metadata)
        except _EndedError as ended:
            assert ended.code is not grpc.StatusCode.INTERNAL, "an internal error; its traceback is in the log"
            return ended.code
        self._restore()
        return grpc.StatusCode.OK

    def _answer(self, method: str, messages: Iterable[bytes], metadata: Metadata) -> bytes:
        return self._loop.run_until_complete(self._serve(method, messages, metadata))

    async def _serve(self, method: str, messages: Iterable[bytes], metadata: Metadata) -> bytes:
        path, found = self._handlers.by_name[method]

        async def continuation(details: grpc.HandlerCallDetails) -> Any:
            return found

        details = cast("grpc.HandlerCallDetails", _Details(path, metadata))
        handler: Any = await self._calls.intercept_service(continuation, details)
        context = _Context(metadata)
        if handler.request_streaming:
            async with contextlib.aclosing(_stream(messages)) as stream:
                reply = await handler.stream_unary(stream, context)
        else:
            reply = await handler.unary_unary(b"".join(messages), context)
        return bytes(handler.response_serializer(reply))

    def _restore(self) -> None:
        with self._store.writing() as connection:
            for table in (tables.uploads, tables.policies, tables.sessions):
                connection.execute(table.delete())
            connection.execute(tables.sessions.insert().values(self._session))


class _EndedError(Exception):
    """What `abort` raises."""

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__(code.name)
        self.code = code


class _Context:
    """What a servicer may ask of a call."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    def invocation_metadata(self) -> Metadata:
        return self._metadata

    def peer(self) -> str:
        return "nowhere"

    def cancelled(self) -> bool:
        return False

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: object = ()) -> None:
        # As gRPC: it takes no text that UTF-8 cannot hold.
        details.encode()
        raise _EndedError(code)


class _Details:
    def __init__(self, method: str, metadata: Metadata) -> None:
        self.method, self.invocation_metadata = method, metadata


class _Handlers:
    """Where generated code registers a servicer's methods."""

    def __init__(self) -> None:
        self.by_name: dict[str, tuple[str, Any]] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """The same methods, as older servers take them."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        for name, handler in handlers.items():
            self.by_name[name] = f"/{service}/{name}", handler


class _Inline(Executor):
    """Runs what it is given at once: a thread would see none of the fuzzer's coverage in order."""

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


async def _stream(messages: Iterable[bytes]) -> AsyncGenerator[bytes, None]:
    for message in messages:
        yield message
