"""Supervises the workers of a server: starts them, restarts those that end, stops them. Never imports torch."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry, Counter

from thetaprime.server import failpoints
from thetaprime.server.config import ServerConfig
from thetaprime.server.errors import StartupError
from thetaprime.server.runtime.process import log_listening
from thetaprime.server.runtime.stopping import KILL_SECONDS
from thetaprime.server.runtime.workers.port import reserve_port
from thetaprime.server.runtime.workers.restarts import Restarts
from thetaprime.server.runtime.workers.worker_process import WorkerProcess, WorkerSpec
from thetaprime.server.store import Store
from thetaprime.server.telemetry import worker_metrics
from thetaprime.server.telemetry.exposition import serve_metrics
from thetaprime.server.telemetry.server_info import register_server_info, register_worker_ends

# A start takes a few seconds. At the start of the server the operator waits, and decides.
_RESTART_SECONDS: Final = 120.0

_log = structlog.get_logger()


async def supervise(config: ServerConfig, stop_event: asyncio.Event, on_ready: Callable[[str], None]) -> None:
    """Runs the workers of a server until the event is set, then drains them.

    Args:
        config: the settings.
        stop_event: ends the server.
        on_ready: called with ``host:port`` once all workers accept calls.

    Raises:
        StartupError: a worker cannot start, or the address, the store or the metrics address cannot be used.
        WorkersError: a worker keeps ending.
    """
    with (
        reserve_port(config.address) as address,
        # Opened before the workers start: the first to open a store creates its tables.
        contextlib.closing(Store(config.store)) as store,
        _metrics_folder(config) as folder,
    ):
        registry = CollectorRegistry()
        pool = _WorkerPool(config.model_copy(update={"address": address}), folder, register_worker_ends(registry))
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
def _metrics_folder(config: ServerConfig) -> Iterator[Path | None]:
    """Yields a temporary folder for the workers' metrics; None if no metrics are served."""
    if not config.metrics_address:
        yield None
        return
    with TemporaryDirectory(prefix="thetaprime-metrics-", ignore_cleanup_errors=True) as name:
        yield Path(name)


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


class _WorkerPool:
    """The workers of a server.

    Args:
        config: the settings, with the reserved address.
        folder: where the workers write their metrics, or None.
        ends: counts the workers that ended, by reason.
    """

    def __init__(self, config: ServerConfig, folder: Path | None, ends: Counter) -> None:
        self._config = config
        self._folder = folder
        self._ends = ends
        self._running: dict[int, WorkerProcess] = {}

    def pids(self) -> Mapping[int, int]:
        """Returns the process ids by worker number. Thread-safe."""
        return {number: process.pid for number, process in self._running.copy().items()}

    async def start(self) -> None:
        """Starts all workers, and waits until they accept calls."""
        await _gather(self._start_worker(number, {}) for number in range(self._config.workers))

    async def keep_running(self) -> None:
        """Restarts each worker that ends.

        Raises:
            WorkersError: a worker keeps ending.
        """
        await _gather(self._keep_worker_running(number) for number in range(self._config.workers))

    async def stop(self) -> None:
        """Drains all workers, kills those that do not end in time, and waits until they have ended."""
        await _gather(self._stop_worker(number, process) for number, process in self._running.copy().items())

    async def _stop_worker(self, number: int, process: WorkerProcess) -> None:
        process.stop()
        try:
            async with asyncio.timeout(self._config.drain_seconds + KILL_SECONDS):
                status = await process.wait()
        except TimeoutError:
            process.kill()
            status = await process.wait()
        self._remove(number, process)
        # SIGTERM ends a worker that is still starting, and has nothing to drain.
        if status not in (0, -signal.SIGTERM):
            _log.error("worker did not drain", worker=number, status=status)

    async def _keep_worker_running(self, number: int) -> None:
        restarts = Restarts()
        while True:
            restarts.record_start()
            process = self._running[number]
            hangs = await process.hangs()
            if hangs:
                _log.error("worker hangs", worker=number, pid=process.pid)
                process.kill()
            status = await process.wait()
            self._remove(number, process)
            self._ends.labels("hung" if hangs else "ended").inc()
            _log.error("worker ended", worker=number, pid=process.pid, status=status)
            await asyncio.sleep(restarts.next_delay(number, status))
            try:
                # Failpoints are armed for the first process only: a restarted worker is a new server.
                await self._start_worker(number, {failpoints.VARIABLE: ""}, _RESTART_SECONDS)
            except StartupError as error:
                _log.error("worker did not start", worker=number, problem=str(error))
            else:
                _log.info("worker restarted", worker=number)

    async def _start_worker(self, number: int, environment: Mapping[str, str], seconds: float | None = None) -> None:
        if self._folder is not None:
            environment = {**environment, worker_metrics.VARIABLE: str(self._folder)}
        process = await WorkerProcess.start(WorkerSpec(number, self._config), environment)
        self._running[number] = process
        try:
            async with asyncio.timeout(seconds):
                await process.wait_until_ready()
        except TimeoutError as error:
            process.kill()
            raise StartupError(f"the worker was not ready after {seconds:g} s") from error

    def _remove(self, number: int, process: WorkerProcess) -> None:
        del self._running[number]
        if self._folder is not None:
            worker_metrics.mark_dead(self._folder, process.pid)


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


async def _gather(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Runs coroutines concurrently; the first error cancels the others."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in coroutines:
                group.create_task(coroutine)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
