"""When adaptation steps run: on a few threads, one at a time for each session, behind a bounded queue."""

import asyncio
import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from thetaprime.server.adaptation import AdaptCall, AdaptOutcome
from thetaprime.server.errors import BusyError


@dataclasses.dataclass(frozen=True)
class _Running:
    call: AdaptCall
    task: asyncio.Task[AdaptOutcome]


class AdaptationEngine:
    """Runs adaptation steps off the event loop.

    A step that has begun is finished and recorded even if its caller goes away: the caller that asks again gets it.

    Args:
        take_round: takes the step of a call; runs on a worker thread.
        workers: number of threads.
        queue: steps that may wait for one.
    """

    def __init__(self, take_round: Callable[[AdaptCall], AdaptOutcome], workers: int, queue: int) -> None:
        self._take_round = take_round
        self._capacity = workers + queue
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="adaptation")
        self._running: dict[str, _Running] = {}

    async def adapt(self, call: AdaptCall) -> AdaptOutcome:
        """The outcome of a call; equal calls at the same time share one step.

        Raises:
            BusyError: the queue is full.
            ServiceError: as `take_round`.
        """
        while (running := self._running.get(call.session_id)) is not None:
            if running.call == call:
                return await asyncio.shield(running.task)
            await asyncio.wait([running.task])
        if len(self._running) >= self._capacity:
            raise BusyError(f"{len(self._running)} adaptation steps are running or waiting", retry_after=1.0)
        task = asyncio.create_task(self._run(call))
        self._running[call.session_id] = _Running(call, task)
        return await asyncio.shield(task)

    @property
    def pending(self) -> int:
        """The steps that have begun or wait."""
        return len(self._running)

    async def finish(self) -> None:
        """Waits for the steps that have begun or wait."""
        while self._running:
            await asyncio.wait([running.task for running in self._running.values()])

    def close(self) -> None:
        """Drops the steps that still wait for a thread."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, call: AdaptCall) -> AdaptOutcome:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._take_round, call)
        finally:
            del self._running[call.session_id]
