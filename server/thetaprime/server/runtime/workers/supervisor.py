"""Starts the workers of a server, keeps their number up, and stops them: it takes no calls, and loads no torch."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from thetaprime.server import failpoints
from thetaprime.server.config import ServerConfig
from thetaprime.server.errors import StartupError
from thetaprime.server.runtime.process import log_listening
from thetaprime.server.runtime.workers.port import reserved
from thetaprime.server.runtime.workers.restarts import Restarts
from thetaprime.server.runtime.workers.worker_process import WorkerProcess, WorkerSpec
from thetaprime.server.store import Store
from thetaprime.server.telemetry import worker_metrics
from thetaprime.server.telemetry.exposition import exposed
from thetaprime.server.telemetry.server_info import add_server_info

_log = structlog.get_logger()


async def supervise(config: ServerConfig, stop_event: asyncio.Event, on_ready: Callable[[str], None]) -> None:
    """Runs the workers of a server until it is told to stop, then has them drain.

    Args:
        config: the settings.
        stop_event: set when it is to stop.
        on_ready: called with ``host:port`` once all of them take calls.

    Raises:
        StartupError: a worker cannot start, or what they share cannot be had.
        WorkersError: one died again and again.
    """
    with (
        reserved(config.address) as address,
        # Opened before they all come to it: the first one makes the tables.
        contextlib.closing(Store(config.store)) as store,
        _counted(config) as folder,
    ):
        crew = _WorkerPool(config.model_copy(update={"address": address}), folder)
        with _page(config, store, folder, crew.pids):
            try:
                if await _came_before(stop_event, crew.start()):
                    log_listening(address, config)
                    on_ready(address)
                    await _came_before(stop_event, crew.keep_up())
                    _log.info("draining", grace=config.grace)
            finally:
                await crew.stop()
        _log.info("stopped")


@contextlib.contextmanager
def _counted(config: ServerConfig) -> Iterator[Path | None]:
    """A folder for what the workers count; None where nobody asks for it."""
    if not config.metrics_address:
        yield None
        return
    with TemporaryDirectory(prefix="thetaprime-metrics-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextlib.contextmanager
def _page(
    config: ServerConfig, store: Store, folder: Path | None, pids: Callable[[], Mapping[int, int]]
) -> Iterator[None]:
    """Serves the metrics of all workers on one port."""
    registry = CollectorRegistry()
    if folder is not None:
        add_server_info(registry, config, store, processes=config.workers)
        worker_metrics.add_workers(registry, folder, pids)
    with exposed(registry, config.metrics_address) as address:
        if address:
            _log.info("metrics", address=address)
        yield


class _WorkerPool:
    """The workers.

    Args:
        config: the settings, with the address that is held for them.
        folder: where they keep what they count, or None.
    """

    def __init__(self, config: ServerConfig, folder: Path | None) -> None:
        self._config = config
        self._folder = folder
        self._running: dict[int, WorkerProcess] = {}

    def pids(self) -> Mapping[int, int]:
        """Process ids by worker. From any thread."""
        return {number: process.pid for number, process in self._running.copy().items()}

    async def start(self) -> None:
        """Starts them all, and waits until they take calls."""
        await _all(self._begin(number, {}) for number in range(self._config.workers))

    async def keep_up(self) -> None:
        """Starts each again that ends, for as long as they are not stopped.

        Raises:
            WorkersError: one does not stay alive.
        """
        await _all(self._keep_up(number) for number in range(self._config.workers))

    async def stop(self) -> None:
        """Has them all drain, and waits for their ends."""
        for process in self._running.values():
            process.stop()
        for number, process in list(self._running.items()):
            status = await process.ended()
            self._forget(number, process)
            # Before it can drain, it has nothing to drain.
            if status not in (0, -signal.SIGTERM):
                _log.error("worker did not drain", worker=number, status=status)

    async def _keep_up(self, number: int) -> None:
        restarts = Restarts()
        while True:
            restarts.began()
            process = self._running[number]
            status = await process.ended()
            self._forget(number, process)
            _log.error("worker ended", worker=number, pid=process.pid, status=status)
            await asyncio.sleep(restarts.delay(number, status))
            try:
                # A worker that comes back is a new server: a test that killed the one has not armed the other.
                await self._begin(number, {failpoints.VARIABLE: ""})
            except StartupError as error:
                _log.error("worker did not start", worker=number, problem=str(error))
            else:
                _log.info("worker is back", worker=number)

    async def _begin(self, number: int, environment: Mapping[str, str]) -> None:
        if self._folder is not None:
            environment = {**environment, worker_metrics.VARIABLE: str(self._folder)}
        process = await WorkerProcess.start(WorkerSpec(number, self._config), environment)
        self._running[number] = process
        await process.ready()

    def _forget(self, number: int, process: WorkerProcess) -> None:
        del self._running[number]
        if self._folder is not None:
            worker_metrics.forget(self._folder, process.pid)


async def _came_before(stop_event: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Whether some work came to its end before the word to stop; that ends it otherwise."""
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


async def _all(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Does all at once; the first that fails ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
