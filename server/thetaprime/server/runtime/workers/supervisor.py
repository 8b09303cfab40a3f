"""Supervises the workers of a server: reserves their port, serves their metrics, stops them. Never imports torch."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from thetaprime.server.config import ServerConfig
from thetaprime.server.runtime.process import log_listening
from thetaprime.server.runtime.workers.fork_server import ForkServer
from thetaprime.server.runtime.workers.pool import WorkerPool
from thetaprime.server.runtime.workers.port import reserve_port
from thetaprime.server.store import Store
from thetaprime.server.telemetry import worker_metrics
from thetaprime.server.telemetry.exposition import serve_metrics
from thetaprime.server.telemetry.server_info import register_server_info, register_worker_ends

_log = structlog.get_logger()


async def supervise(
    config: ServerConfig, stop_event: asyncio.Event, on_ready: Callable[[str], None], fork_server: ForkServer
) -> None:
    """Runs the workers of a server until the event is set, then drains them.

    Args:
        config: the settings.
        stop_event: ends the server.
        on_ready: called with ``host:port`` once all workers accept calls.
        fork_server: of which the workers are copies.

    Raises:
        StartupError: a worker cannot start, or the address, the store or the metrics address cannot be used.
        WorkersError: a worker keeps ending.
    """
    folder = fork_server.metrics_folder
    with (
        reserve_port(config.address) as address,
        # Opened before the workers start: the first to open a store creates its tables.
        contextlib.closing(Store(config.store, blobs=config.blobs)) as store,
    ):
        registry = CollectorRegistry()
        config = config.model_copy(update={"address": address})
        pool = WorkerPool(config, folder, register_worker_ends(registry), fork_server)
        with _serve_worker_metrics(registry, config, store, folder, pool.pids):
            try:
                if await _run_until(stop_event, pool.start()):
                    log_listening(address, config)
                    on_ready(address)
                    await _run_until(stop_event, pool.keep_running())
                    _log.info("draining", grace=config.grace)
            finally:
                await pool.stop()
        _log.info("stopped")


@contextlib.contextmanager
def _serve_worker_metrics(
    registry: CollectorRegistry,
    config: ServerConfig,
    store: Store,
    folder: Path | None,
    pids: Callable[[], Mapping[int, int]],
) -> Iterator[None]:
    """Serves the metrics of all workers on one port."""
    if folder is not None:
        register_server_info(registry, config, store, processes=config.workers)
        worker_metrics.register_workers(registry, folder, pids)
    with serve_metrics(registry, config.metrics_address) as address:
        if address:
            _log.info("metrics", address=address)
        yield


async def _run_until(stop_event: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Runs a coroutine, and cancels it when the event is set; returns whether the coroutine finished."""
    tasks = asyncio.create_task(work), asyncio.create_task(stop_event.wait())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[0].result()
        return tasks[0].done()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
