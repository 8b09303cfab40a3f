"""Schedules adaptation steps: one at a time for each session, tenants in turns, within each tenant's rate."""

import asyncio
import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from thetaprime.server.adaptation.commit import AdaptCall, AdaptOutcome
from thetaprime.server.errors import BusyError
from thetaprime.server.scheduling.fair_slots import FairSlots, FairThreads
from thetaprime.server.scheduling.rate_limit import RateLimit
from thetaprime.server.sessions.uploads import NewUpload

_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclasses.dataclass(frozen=True)
class _Running:
    call: AdaptCall
    task: asyncio.Task[AdaptOutcome]


class AdaptationEngine:
    """Runs adaptation steps on the processors' threads.

    A step that has begun finishes and is recorded even if its caller cancels; the retried call returns it.

    Args:
        take_round: takes the step of a call; blocks.
        precompute: precomputes the step of a round's only upload; blocks.
        processors: the threads, shared with other work that computes.
        threads: steps that may run or wait for a processor at once.
        queue: how many steps of one tenant may wait for a thread.
        rate_limit: charged for each step.
        waiting: context in which a step waits for a thread.
    """

    def __init__(
        self,
        take_round: Callable[[AdaptCall], AdaptOutcome],
        *,
        precompute: Callable[[NewUpload], None],
        processors: FairThreads,
        threads: int,
        queue: int,
        rate_limit: RateLimit,
        waiting: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        self._take_round = take_round
        self._precompute = precompute
        self._processors = processors
        self._queue = queue
        self._rate_limit = rate_limit
        self._waiting = waiting
        # Steps wait apart from the uploads before they wait for a processor. In one queue with its uploads, a
        # flood of one tenant made another tenant's round a third longer (`make bench`, flood).
        self._steps = FairSlots(threads)
        self._queued: Counter[str] = Counter()
        self._running: dict[str, _Running] = {}
        # Tenant and session of each step that is being precomputed. Each takes a slot, so there are few.
        self._precomputing: dict[asyncio.Task[None], tuple[str, str]] = {}

    def precompute(self, upload: NewUpload) -> None:
        """Begins the step of a round's first upload, where the tenant's rate allows a step now.

        The caller holds a slot of the processors. The step goes on beside it: the upload does not wait for it.
        """
        session = upload.session
        if upload.batch.uploads == 1 and self._rate_limit.prepay(session.tenant, session.session_id, session.round):
            self._processors.slots.take(session.tenant)
            task = asyncio.create_task(self._precompute_in_slot(upload))
            self._precomputing[task] = session.tenant, session.session_id
            task.add_done_callback(self._precomputing.pop)

    async def finish_precomputing(self, tenant: str, session_id: str) -> None:
        """Waits for the step of a session that is being precomputed."""
        found = [task for task, key in self._precomputing.items() if key == (tenant, session_id)]
        if found:
            await asyncio.wait(found)

    async def adapt(self, call: AdaptCall) -> AdaptOutcome:
        """Returns the outcome of a call. Equal concurrent calls share one step.

        Raises:
            BusyError: the tenant's queue is full, or its rate limit is reached.
            ServiceError: as `take_round`.
        """
        while (running := self._running.get(call.session_id)) is not None:
            if running.call == call:
                return await asyncio.shield(running.task)
            await asyncio.wait([running.task])
        queued = self._queued[call.tenant]
        if queued >= self._queue and not self._steps.may_begin(call.tenant):
            raise BusyError(f"{queued} adaptation steps of the tenant are waiting", retry_after=1.0)
        self._rate_limit.charge(call.tenant, call.session_id, call.expected_round)
        task = asyncio.create_task(self._run(call, self._steps.ask(call.tenant)))
        self._running[call.session_id] = _Running(call, task)
        return await asyncio.shield(task)

    async def explain(self, tenant: str, function: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Runs a function that computes as much as a step and records nothing.

        Raises:
            BusyError: the tenant's rate limit is reached.
            ServiceError: as the function.
        """
        self._rate_limit.charge_explanation(tenant)
        return await self._processors.run(tenant, function, *args, **kwargs)

    async def finish(self) -> None:
        """Waits for all steps that run or wait."""
        while tasks := [*(running.task for running in self._running.values()), *self._precomputing]:
            await asyncio.wait(tasks)

    def close(self) -> None:
        """Drops the steps that wait for a thread."""
        self._steps.drop()
        self._processors.slots.drop()

    async def _precompute_in_slot(self, upload: NewUpload) -> None:
        try:
            await self._processors.run_in_held_slot(self._precompute, upload)
        finally:
            self._processors.slots.release(upload.session.tenant)

    async def _run(self, call: AdaptCall, turn: asyncio.Future[None]) -> AdaptOutcome:
        try:
            if not turn.done():
                with self._in_queue(call.tenant):
                    await turn
            try:
                return await self._processors.run(call.tenant, self._take_round, call)
            finally:
                self._steps.release(call.tenant)
        finally:
            del self._running[call.session_id]

    @contextlib.contextmanager
    def _in_queue(self, tenant: str) -> Iterator[None]:
        self._queued[tenant] += 1
        try:
            with self._waiting():
                yield
        finally:
            self._queued[tenant] -= 1
            if not self._queued[tenant]:
                del self._queued[tenant]
