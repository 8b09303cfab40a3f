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
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from thetaprime.models import hold_freed_memory
from thetaprime.server import failpoints
from thetaprime.server.adaptation import warm_up
from thetaprime.server.calls import CallInterceptor
from thetaprime.server.catalog import Catalog
from thetaprime.server.catalog_watch import CatalogWatch
from thetaprime.server.config import ServerConfig
from thetaprime.server.engine import AdaptationEngine
from thetaprime.server.errors import StartupError
from thetaprime.server.log import adopt_library_logs, configure_logging
from thetaprime.server.servicers import AdaptationServicer, MetaPolicyServicer
from thetaprime.server.store import Store
from thetaprime.server.telemetry.exposition import exposed
from thetaprime.server.telemetry.health import Health
from thetaprime.server.telemetry.metrics import Metrics
from thetaprime.server.telemetry.observed_store import ObservedStore
from thetaprime.server.telemetry.steps import take_observed_round
from thetaprime.server.telemetry.stored import StoredState
from thetaprime.server.telemetry.tracing import CallTracer, exported_spans
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
    metrics, tracer = Metrics(config), CallTracer(config.tracing)
    catalog = await asyncio.to_thread(Catalog.load, config.zoo)
    watch = CatalogWatch(catalog, config.zoo)
    store = await asyncio.to_thread(ObservedStore, config.store, metrics, config.row_bytes, config.recent_bytes)
    await asyncio.to_thread(warm_up, catalog)
    with (
        contextlib.closing(store),
        ThreadPoolExecutor(_STORE_THREADS, thread_name_prefix="store") as threads,
        contextlib.closing(
            AdaptationEngine(
                lambda call: take_observed_round(metrics, store, catalog, call), config.workers, config.queue, pace.take
            )
        ) as engine,
        exposed(metrics.registry, config.metrics_address) as metrics_address,
    ):
        metrics.registry.register(StoredState(store, config.store))
        metrics.meta_policies.set_function(lambda: len(catalog))
        metrics.count_waiting(lambda: max(0, engine.pending - config.workers))
        calls = CallInterceptor(gate, metrics, tracer)
        health_report = Health(_SERVICES, metrics)
        server = grpc.aio.server(
            interceptors=[calls],
            options=[
                ("grpc.max_receive_message_length", _MESSAGE_BYTES),
                # A chunk comes in one go: with less, its sender waits for leave to send the rest.
                ("grpc.http2.lookahead_bytes", 2 * _MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
            ],
        )
        adaptation_service_pb2_grpc.add_AdaptationServiceServicer_to_server(
            AdaptationServicer(config, store, catalog, engine, threads, gate), server
        )
        meta_policy_service_pb2_grpc.add_MetaPolicyServiceServicer_to_server(MetaPolicyServicer(catalog), server)
        health_pb2_grpc.add_HealthServicer_to_server(health_report.servicer, server)
        reflection.enable_server_reflection((*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        port = _bind(server, config.address, credentials)
        await health_report.serve()
        failpoints.reach("start.serving")
        await server.start()
        if metrics_address:
            _log.info("metrics", address=metrics_address)
        tasks = (
            asyncio.create_task(_sweep(store, threads)),
            asyncio.create_task(_scan(watch, threads, config.catalog_seconds)),
            asyncio.create_task(health_report.watch(store, config.probe_seconds)),
        )
        try:
            yield f"{config.address.rpartition(':')[0]}:{port}"
        finally:
            await health_report.drain()
            await _notice(config.drain_notice)
            calls.drain()
            for task in tasks:
                task.cancel()
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
    adopt_library_logs()
    failpoints.arm_from_environment()
    hold_freed_memory()
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    with exported_spans() if config.tracing else contextlib.nullcontext():
        await _serve_until(told, config, on_ready)


async def _serve_until(told: asyncio.Event, config: ServerConfig, on_ready: Callable[[str], None]) -> None:
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


async def _notice(seconds: float) -> None:
    """Takes calls a little longer, for load balancers to see that they should send no more."""
    await asyncio.sleep(seconds)


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


async def _scan(watch: CatalogWatch, threads: ThreadPoolExecutor, seconds: float) -> None:
    """Looks for meta-policies that came or went."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await asyncio.get_running_loop().run_in_executor(threads, watch.scan)
        # What is served does not depend on what could be.
        except Exception:
            _log.exception("catalog scan failed")
