"""The server process: starts, listens, and stops without losing what it has begun."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Final

import grpc
import structlog
import torch
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from thetaprime.server import failpoints
from thetaprime.server.adaptation import take_round, warm_up
from thetaprime.server.calls import CallInterceptor
from thetaprime.server.catalog import Catalog
from thetaprime.server.config import ServerConfig
from thetaprime.server.engine import AdaptationEngine
from thetaprime.server.errors import StartupError
from thetaprime.server.log import configure_logging
from thetaprime.server.servicers import AdaptationServicer, MetaPolicyServicer
from thetaprime.server.store import Store
from thetaprime.server.trust import Gate, Pace, Quotas, server_credentials
from thetaprime.v1 import (
    adaptation_service_pb2,
    adaptation_service_pb2_grpc,
    meta_policy_service_pb2,
    meta_policy_service_pb2_grpc,
)
from thetaprime.wire import CHUNK_BYTES

_SERVICES: Final = (
    adaptation_service_pb2.DESCRIPTOR.services_by_name["AdaptationService"].full_name,
    meta_policy_service_pb2.DESCRIPTOR.services_by_name["MetaPolicyService"].full_name,
)
# One chunk with its envelope, and nothing much larger.
_MESSAGE_BYTES: Final = 2 * CHUNK_BYTES
_STORE_THREADS: Final = 8
_SWEEP_SECONDS: Final = 600.0
# When no call is left, replies may still be on their way, and health checks may be watching.
_LAST_REPLIES_SECONDS: Final = 1.0

_log = structlog.get_logger()


@contextlib.asynccontextmanager
async def listening(config: ServerConfig) -> AsyncIterator[str]:
    """A server that takes calls within the context, and drains when it ends; yields its ``host:port``.

    Raises:
        StartupError: the catalog, the store, the address, a TLS file or the tokens file cannot be used.
    """
    # Each adaptation step has one thread: several steps at once beat several threads for one.
    torch.set_num_threads(1)
    credentials = server_credentials(config)
    gate = Gate(config.tokens, Quotas.defaults(config))
    pace = Pace(gate.quotas_of)
    catalog = await asyncio.to_thread(Catalog.load, config.zoo)
    store = await asyncio.to_thread(Store, config.store)
    await asyncio.to_thread(warm_up, catalog)
    with (
        contextlib.closing(store),
        ThreadPoolExecutor(_STORE_THREADS, thread_name_prefix="store") as threads,
        contextlib.closing(
            AdaptationEngine(lambda call: take_round(store, catalog, call), config.workers, config.queue, pace.take)
        ) as engine,
    ):
        calls = CallInterceptor(gate)
        checks = health.aio.HealthServicer()  # type: ignore[attr-defined]
        server = grpc.aio.server(
            interceptors=[calls],
            options=[("grpc.max_receive_message_length", _MESSAGE_BYTES), ("grpc.so_reuseport", 0)],
        )
        adaptation_service_pb2_grpc.add_AdaptationServiceServicer_to_server(
            AdaptationServicer(config, store, catalog, engine, threads, gate), server
        )
        meta_policy_service_pb2_grpc.add_MetaPolicyServiceServicer_to_server(MetaPolicyServicer(catalog), server)
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        reflection.enable_server_reflection((*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        port = _bind(server, config.address, credentials)
        for service in ("", *_SERVICES):
            await checks.set(service, health_pb2.HealthCheckResponse.SERVING)
        failpoints.reach("start.serving")
        await server.start()
        sweeping = asyncio.create_task(_sweep(store, threads))
        try:
            yield f"{config.address.rpartition(':')[0]}:{port}"
        finally:
            calls.drain()
            await checks.enter_graceful_shutdown()
            sweeping.cancel()
            await _finish(calls, engine, config.grace)
            await server.stop(_LAST_REPLIES_SECONDS)


async def serve(config: ServerConfig, on_ready: Callable[[str], None]) -> None:
    """Runs a server until the process is told to stop (SIGTERM or SIGINT), then drains it.

    Args:
        config: the settings.
        on_ready: called with ``host:port`` once calls are taken.

    Raises:
        StartupError: the server cannot start.
    """
    configure_logging()
    failpoints.arm_from_environment()
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    async with listening(config) as address:
        _log.info("listening", address=address, store=str(config.store), zoo=[str(folder) for folder in config.zoo])
        on_ready(address)
        await told.wait()
        _log.info("draining", grace=config.grace)
    _log.info("stopped")


@contextlib.contextmanager
def running_server(config: ServerConfig) -> Iterator[str]:
    """A server on a thread of this process, for tests and for embedding; yields its ``host:port``.

    Raises:
        StartupError: the server cannot start.
    """
    if not structlog.is_configured():
        configure_logging(logging.WARNING)
    ready: Future[tuple[str, Callable[[], object]]] = Future()

    async def run() -> None:
        told, loop = asyncio.Event(), asyncio.get_running_loop()
        async with listening(config) as address:
            ready.set_result((address, lambda: loop.call_soon_threadsafe(told.set)))
            await told.wait()

    with ThreadPoolExecutor(1, thread_name_prefix="thetaprime-server") as thread:
        ended = thread.submit(asyncio.run, run())
        either: list[Future[Any]] = [ready, ended]
        wait(either, return_when=FIRST_COMPLETED)
        if ready.done():
            address, stop = ready.result()
            try:
                yield address
            finally:
                stop()
        ended.result()


def _bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    """The port that the server is going to listen on."""
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise StartupError(f"address {address}: cannot listen there; is it in use?") from error


async def _finish(calls: CallInterceptor, engine: AdaptationEngine, grace: float) -> None:
    try:
        async with asyncio.timeout(grace):
            await calls.finish()
            await engine.finish()
    except TimeoutError:
        _log.warning("calls were still running after the grace period", grace=grace)


async def _sweep(store: Store, threads: ThreadPoolExecutor) -> None:
    """Clears out what nobody can ask for any more: at the start, and from time to time."""
    loop = asyncio.get_running_loop()
    sweeps: tuple[Callable[[], object], ...] = (store.sweep_orphans, store.sweep)
    while True:
        try:
            for sweep in sweeps:
                await loop.run_in_executor(threads, sweep)
        # What is left does no harm, and the next sweep takes it.
        except Exception:
            _log.exception("sweep failed")
        sweeps = (store.sweep,)
        await asyncio.sleep(_SWEEP_SECONDS)
