"""The rounds of a session: collect, upload, step."""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from thetaprime import wire
from thetaprime.client._async import runtime
from thetaprime.client._collect.collect import Counted, collect_into, collection_errors, take_into
from thetaprime.client._collect.spaces import check_environment, is_environment
from thetaprime.client._errors import InvalidInputError, ThetaPrimeError
from thetaprime.client._progress import ProgressOption, shown
from thetaprime.client._rpc.deadline import Deadline
from thetaprime.client._rpc.upload import in_parts
from thetaprime.client._types import AdaptationReport, Progress

if TYPE_CHECKING:
    from thetaprime.client._async.session import Session

# Whoever pressed Ctrl-C waits this long at most for what was collected to be kept, and less after pressing it again.
_PATIENCE_SECONDS: Final = 10.0

Tasks: TypeAlias = Any
"""A Gymnasium `Env` or `VectorEnv`, a `runtime.Collector`, or a list of those."""


def check_tasks(env: Tasks, contract: wire.EnvironmentContract) -> list[Any]:
    """What is to collect at the same time.

    Raises:
        InvalidInputError: nothing is, or something cannot, or is an environment that does not fit.
    """
    several = isinstance(env, (list, tuple))
    tasks = list(env) if several else [env]
    if not tasks:
        raise InvalidInputError.at("env", "an empty list; expected something that collects")
    for index, task in enumerate(tasks):
        if is_environment(task) or not callable(task):
            check_environment(task, contract, f"env[{index}]" if several else "env")
    return tasks


async def take_rounds(
    session: "Session",
    env: Tasks,
    rounds: int,
    trajectories: int | None,
    *,
    seed: int | None,
    progress: ProgressOption,
    deadline: Deadline,
) -> None:
    """Takes rounds until the session has had so many.

    Args:
        session: where they are taken, and what an interruption leaves to go on with.
        env: as `Client.adapt`'s.
        rounds: how many rounds the session is to have.
        trajectories: episodes for each; None is as many as the meta-policy was trained with.
        seed: of environments and actions.
        progress: as `Client.adapt`'s.
        deadline: of all of it.

    Raises:
        ThetaPrimeError: as `Client.adapt`. Every exception, Ctrl-C's included, has the session's id as `session_id`.
    """
    if rounds < 1:
        raise InvalidInputError.at("rounds", f"{rounds}; expected at least 1")
    wanted = session.meta_policy.trajectories_per_round if trajectories is None else trajectories
    if wanted < 1:
        raise InvalidInputError.at("trajectories", f"{trajectories}; expected at least 1")
    tasks = check_tasks(env, session.policy.contract)
    try:
        with shown(progress) as show:
            while session.round < rounds:
                await _Round(session, rounds, wanted, show, deadline).take(tasks, seed)
    except BaseException as error:  # Ctrl-C too: the session can be resumed
        error.session_id = session.id  # type: ignore[attr-defined]  # any exception takes attributes
        deadline.annotate(error)
        error.add_note(
            f"session {session.id} is in round {session.round}, with {session.batch.trajectories} of {wanted} "
            "trajectories: resume it to continue"
        )
        raise


class _Round:
    """One round: what lacks is collected and uploaded, and the step is taken."""

    def __init__(
        self,
        session: "Session",
        rounds: int,
        wanted: int,
        show: Callable[[Progress], None],
        deadline: Deadline,
    ) -> None:
        self._session: Final = session
        self._rounds: Final = rounds
        self._wanted: Final = wanted
        self._show: Final = show
        self._deadline: Final = deadline
        self._index: Final = session.round
        # Uploaded by an earlier process, or by hand.
        self._before: Final = session.batch.trajectories
        self._counts: dict[int, int] = {}

    async def take(self, tasks: Sequence[Any], seed: int | None) -> None:
        """Collects and uploads with every task at once, then takes the step."""
        session, lacking = self._session, self._wanted - self._before
        counted = runtime.relay(self._count)
        works = []
        for i, task in enumerate(tasks):
            share = lacking // len(tasks) + (i < lacking % len(tasks))
            if share > 0:
                tell = functools.partial(counted, i)
                works.append(functools.partial(self._collect, task, share, self._seed(seed, i), tell))
        if works:
            await runtime.all_of(works, self._deadline.stop)
        await session.adapt(timeout=self._deadline.remaining())
        if session.report is not None:
            self._tell(session.report.trajectories, session.report)

    async def _collect(self, task: Any, count: int, seed: int | None, tell: Counted) -> None:
        session, policy, check = self._session, self._session.policy, self._deadline.check
        collected: list[wire.Trajectory] = []
        try:
            try:
                if is_environment(task):
                    await runtime.offload(
                        collect_into, collected, policy, task, count, seed=seed, progress=tell, check=check
                    )
                while len(collected) < count:
                    with collection_errors("the collector", collected, count):
                        found = await runtime.call_collector(task, policy, count - len(collected))
                    await runtime.offload(take_into, collected, found, count, progress=tell, check=check)
            except Exception as error:
                await self._keep(collected, error)
                raise
            for part in in_parts(collected):
                await session.upload(part, timeout=self._deadline.remaining())
        except KeyboardInterrupt as error:  # in the middle of an upload too: what arrived before counts once
            await self._keep(collected, error)
            raise

    async def _keep(self, collected: Sequence[wire.Trajectory], error: BaseException) -> None:
        """Uploads what was collected before a failure or Ctrl-C; a second failure does not hide the first."""
        patience = _PATIENCE_SECONDS if isinstance(error, KeyboardInterrupt) else None
        deadline, kept = Deadline(patience, "keeping what was collected"), 0
        try:
            for part in in_parts(collected):
                left = [each for each in (deadline.remaining(), self._deadline.remaining()) if each is not None]
                await self._session.upload(part, timeout=min(left, default=None))
                kept += len(part)
        except ThetaPrimeError as refusal:
            error.add_note(f"{len(collected) - kept} of the trajectories collected before are lost: {refusal}")

    def _seed(self, seed: int | None, task: int) -> int | None:
        if seed is None:
            return None
        # What was collected before is part of the key: a resumed round does not repeat its first episodes.
        sequence = np.random.SeedSequence(seed, spawn_key=(self._index, self._before, task))
        return int(sequence.generate_state(1)[0])

    def _count(self, task: int, collected: int) -> None:
        self._counts[task] = collected
        self._tell(self._before + sum(self._counts.values()), None)

    def _tell(self, collected: int, report: AdaptationReport | None) -> None:
        self._show(Progress(self._session.id, self._index, self._rounds, collected, self._wanted, report))
