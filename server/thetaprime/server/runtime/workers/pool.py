"""The workers of a server: starts them, restarts those that end or hang, stops them."""

import asyncio
import signal
from collections.abc import Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import structlog
from prometheus_client import Counter

from thetaprime.server import failpoints
from thetaprime.server.config import ServerConfig
from thetaprime.server.errors import StartupError
from thetaprime.server.runtime.stopping import KILL_SECONDS
from thetaprime.server.runtime.workers.fork_server import ForkServer
from thetaprime.server.runtime.workers.restarts import Restarts
from thetaprime.server.runtime.workers.worker_process import WorkerProcess, WorkerSpec
from thetaprime.server.telemetry import worker_metrics

# A start takes a second. At the start of the server the operator waits, and decides.
_RESTART_SECONDS: Final = 120.0

_log = structlog.get_logger()


class WorkerPool:
    """The workers of a server.

    Args:
        config: the settings, with the reserved address.
        folder: where the workers write their metrics, or None.
        ends: counts the workers that ended, by reason.
        fork_server: of which the workers are copies.
    """

    def __init__(self, config: ServerConfig, folder: Path | None, ends: Counter, fork_server: ForkServer) -> None:
        self._config = config
        self._folder = folder
        self._ends = ends
        self._fork_server = fork_server
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
        spec = WorkerSpec(number, self._config)
        try:
            async with asyncio.timeout(seconds):
                process = await WorkerProcess.start(spec, environment, self._fork_server)
        except TimeoutError as error:
            raise StartupError(f"no worker was started within {seconds:g} s") from error
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


async def _gather(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Runs coroutines concurrently; the first error cancels the others."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in coroutines:
                group.create_task(coroutine)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
