"""When adaptation steps run: on a few threads, one at a time for each session, the tenants in turns."""

import asyncio
import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from thetaprime.server.adaptation.commit import AdaptCall, AdaptOutcome
from thetaprime.server.errors import BusyError
from thetaprime.server.scheduling.fair_slots import FairSlots


@dataclasses.dataclass(frozen=True)
class _Running:
    call: AdaptCall
    task: asyncio.Task[AdaptOutcome]


class AdaptationEngine:
    """Runs adaptation steps off the event loop.

    A step that has begun is finished and recorded even if its caller goes away: the caller that asks again gets it.

    Args:
        take_round: takes the step of a call; runs on a thread.
        threads: how many there are.
        queue: steps of one tenant that may wait for one.
        pace: called with the tenant before a step is begun or waits; refuses one that comes too soon.
        processors: places that a step takes turns for with what is not the engine's; it holds one while it runs.
        waiting: gives what to do around a step's wait for a thread.
    """

    def __init__(
        self,
        take_round: Callable[[AdaptCall], AdaptOutcome],
        *,
        threads: int,
        queue: int,
        pace: Callable[[str], None],
        processors: FairSlots | None = None,
        waiting: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        self._take_round = take_round
        self._queue = queue
        self._pace = pace
        self._waiting = waiting
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="adaptation")
        self._places = FairSlots(threads)
        self._processors = processors or FairSlots(threads)
        self._queued: Counter[str] = Counter()
        self._running: dict[str, _Running] = {}

    async def adapt(self, call: AdaptCall) -> AdaptOutcome:
        """The outcome of a call; equal calls at the same time share one step.

        Raises:
            BusyError: the tenant's queue is full, or it has taken too many steps of late.
            ServiceError: as `take_round`.
        """
        while (running := self._running.get(call.session_id)) is not None:
            if running.call == call:
                return await asyncio.shield(running.task)
            await asyncio.wait([running.task])
        queued = self._queued[call.tenant]
        if queued >= self._queue and not self._places.may_begin(call.tenant):
            raise BusyError(f"{queued} adaptation steps of the tenant are waiting", retry_after=1.0)
        self._pace(call.tenant)
        task = asyncio.create_task(self._run(call, self._places.ask(call.tenant)))
        self._running[call.session_id] = _Running(call, task)
        return await asyncio.shield(task)

    async def finish(self) -> None:
        """Waits for the steps that have begun or wait."""
        while self._running:
            await asyncio.wait([running.task for running in self._running.values()])

    def close(self) -> None:
        """Drops the steps that still wait for a thread."""
        self._places.drop()
        self._processors.drop()
        self._threads.shutdown(wait=False, cancel_futures=True)

    @contextlib.contextmanager
    def _in_the_queue(self, tenant: str) -> Iterator[None]:
        self._queued[tenant] += 1
        try:
            with self._waiting():
                yield
        finally:
            self._queued[tenant] -= 1
            if not self._queued[tenant]:
                del self._queued[tenant]

    async def _run(self, call: AdaptCall, turn: asyncio.Future[None]) -> AdaptOutcome:
        try:
            if not turn.done():
                with self._in_the_queue(call.tenant):
                    await turn
            try:
                async with self._processors.place(call.tenant):
                    return await asyncio.get_running_loop().run_in_executor(self._threads, self._take_round, call)
            finally:
                self._places.give_back(call.tenant)
        finally:
            del self._running[call.session_id]
