"""When adaptation steps run: on a few threads, one at a time for each session, the tenants in turns."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from thetaprime.server.adaptation import AdaptCall, AdaptOutcome
from thetaprime.server.errors import BusyError
from thetaprime.server.turns import Turns


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
        waiting: gives what to do around a step's wait for a thread.
    """

    def __init__(
        self,
        take_round: Callable[[AdaptCall], AdaptOutcome],
        *,
        threads: int,
        queue: int,
        pace: Callable[[str], None],
        waiting: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        self._take_round = take_round
        self._queue = queue
        self._pace = pace
        self._waiting = waiting
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="adaptation")
        self._free = threads
        self._turns: Turns[asyncio.Future[None]] = Turns()
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
        waiting = self._turns.waiting(call.tenant)
        if not self._free and waiting >= self._queue:
            raise BusyError(f"{waiting} adaptation steps of the tenant are waiting", retry_after=1.0)
        self._pace(call.tenant)
        task = asyncio.create_task(self._run(call, self._turn(call.tenant)))
        self._running[call.session_id] = _Running(call, task)
        return await asyncio.shield(task)

    async def finish(self) -> None:
        """Waits for the steps that have begun or wait."""
        while self._running:
            await asyncio.wait([running.task for running in self._running.values()])

    def close(self) -> None:
        """Drops the steps that still wait for a thread."""
        while (turn := self._turns.next()) is not None:
            turn.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _turn(self, tenant: str) -> asyncio.Future[None]:
        """Done once a thread is the caller's, who passes it on when it needs it no more."""
        turn = asyncio.get_running_loop().create_future()
        if self._free:
            self._free -= 1
            turn.set_result(None)
        else:
            self._turns.add(tenant, turn)
        return turn

    def _pass_on(self) -> None:
        while (turn := self._turns.next()) is not None:
            if not turn.cancelled():
                turn.set_result(None)
                return
        self._free += 1

    async def _run(self, call: AdaptCall, turn: asyncio.Future[None]) -> AdaptOutcome:
        try:
            with contextlib.nullcontext() if turn.done() else self._waiting():
                await turn
            try:
                return await asyncio.get_running_loop().run_in_executor(self._threads, self._take_round, call)
            finally:
                self._pass_on()
        finally:
            del self._running[call.session_id]
