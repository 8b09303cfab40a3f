# Generated from _async/rounds.py by `make sync-client`: edit that file.
"""Runs the rounds of a session: collect, upload, adapt."""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from thetaprime import wire
from thetaprime.client._collect.collect import CountEpisodes, collect_into, collection_errors, take_into
from thetaprime.client._collect.spaces import check_environment, is_environment
from thetaprime.client._errors import MEMORY_UNSUPPORTED, InvalidInputError, PreconditionError, ThetaPrimeError
from thetaprime.client._history import choose, pooled
from thetaprime.client._policy.adaptation import Adaptation
from thetaprime.client._progress import ProgressOption, progress_callback
from thetaprime.client._rpc.deadline import Deadline
from thetaprime.client._rpc.requests import split_upload
from thetaprime.client._sync import runtime
from thetaprime.client._types import AdaptationReport, Progress

if TYPE_CHECKING:
    from thetaprime.client._sync.session import Session

# Two policies cannot be told apart by fewer episodes.
_FEWEST_VERIFYING: Final = 5
# After Ctrl-C, the upload of collected trajectories takes at most this long; a second Ctrl-C ends it.
_FINAL_UPLOAD_SECONDS: Final = 10.0

Tasks: TypeAlias = Any
"""A Gymnasium `Env` or `VectorEnv`, a `runtime.Collector`, or a list of those."""


def check_tasks(env: Tasks, contract: wire.EnvironmentContract) -> list[Any]:
    """Returns the list of collectors and environments, each checked.

    Raises:
        InvalidInputError: the list is empty, or an element is neither a collector nor a matching environment.
    """
    several = isinstance(env, (list, tuple))
    tasks = list(env) if several else [env]
    if not tasks:
        raise InvalidInputError.at("env", "an empty list; expected an environment or a collector")
    for index, task in enumerate(tasks):
        if is_environment(task) or not callable(task):
            check_environment(task, contract, f"env[{index}]" if several else "env")
    return tasks


def take_rounds(
    session: "Session",
    env: Tasks,
    rounds: int,
    trajectories: int | None,
    *,
    verify: int | None,
    seed: int | None,
    progress: ProgressOption,
    deadline: Deadline,
) -> None:
    """Takes rounds until the session has taken `rounds`, and then verifies the last policy.

    Args:
        session: the session.
        env: as `Client.adapt`'s.
        rounds: total number of rounds.
        trajectories: episodes per round; None uses the number of meta-training.
        verify: as `Client.adapt`'s.
        seed: seed of the environments and of the actions.
        progress: as `Client.adapt`'s.
        deadline: deadline of all rounds.

    Raises:
        PreconditionError: the policy has a memory.
        ThetaPrimeError: as `Client.adapt`. Every exception, Ctrl-C's included, has the session's id as `session_id`.
    """
    if session.policy.memory is not None:
        raise PreconditionError(
            f"{session.meta_policy.label} carries a memory, and adapts in it from episode to episode: act with "
            "session.policy or Client.theta, and call observe after each step. It takes no rounds: a gradient step "
            "through a memory is not supported yet",
            reason=MEMORY_UNSUPPORTED,
        )
    if rounds < 1:
        raise InvalidInputError.at("rounds", f"{rounds}; expected at least 1")
    wanted = session.meta_policy.trajectories_per_round if trajectories is None else trajectories
    if wanted < 1:
        raise InvalidInputError.at("trajectories", f"{trajectories}; expected at least 1")
    if verify is None:
        verify = max(_FEWEST_VERIFYING, -(-wanted // 4))
    elif verify < 0:
        raise InvalidInputError.at("verify", f"{verify}; expected at least 0")
    tasks = check_tasks(env, session.policy.contract)
    try:
        with progress_callback(progress) as show:
            while session.round < rounds:
                _Round(session, rounds, wanted, show, deadline).take(tasks, seed)
            if verify > 0:
                session.measure(timeout=deadline.remaining())
            # A closed session takes no more uploads.
            if len(session.returns) < verify and session.info.state == "open":
                _Round(session, rounds, verify, show, deadline, verifying=True).collect(tasks, seed)
    except BaseException as error:  # Ctrl-C too: the session can be resumed
        error.session_id = session.id  # type: ignore[attr-defined]  # any exception takes attributes
        deadline.annotate(error)
        error.add_note(
            f"session {session.id} is in round {session.round}, with {session.batch.trajectories} of "
            f"{wanted if session.round < rounds else verify} "
            "trajectories: resume it to continue"
        )
        raise


def hand_out(session: "Session", verify: int | None, deadline: Deadline) -> Adaptation:
    """Returns the policy that a session hands out: the best one that was measured, or the last one.

    Args:
        session: the session, with its rounds taken.
        verify: as `Client.adapt`'s; 0 hands out the last policy.
        deadline: deadline of the call that fetches an earlier policy.
    """
    history, last, best = session.history, session.round, session.best
    # A step that was held or rolled back may lead to the best policy itself.
    is_best = best is not None and best.policy_id == session.policy.policy_id
    round_index = last
    if verify != 0 and session.caution == "hold" and not is_best:
        if history and history[-1].round == last:
            round_index = choose(history, None if best is None else best.round).round
        elif best is not None:
            # The session was closed before its last policy was measured.
            round_index = best.round
    policy = session.policy
    if round_index != last:
        policy = session.policy_at(round_index, timeout=deadline.remaining())
    rounds = {round_index, best.round} if is_best and best is not None else {round_index}
    measured = [each for each in history if each.round in rounds]
    return Adaptation.of(
        policy,
        round_index,
        history,
        pooled(measured) if measured else None,
        session_id=session.id,
        theta_id=session.meta_policy.policy_id,
    )


class _Round:
    """One round: collects and uploads the missing trajectories, and takes the step."""

    def __init__(
        self,
        session: "Session",
        rounds: int,
        wanted: int,
        show: Callable[[Progress], None],
        deadline: Deadline,
        verifying: bool = False,
    ) -> None:
        self._session: Final = session
        self._rounds: Final = rounds
        self._wanted: Final = wanted
        self._show: Final = show
        self._deadline: Final = deadline
        self._index: Final = session.round
        self._verifying: Final = verifying
        # Uploaded by an earlier process, or by `Session.upload`.
        self._uploaded: Final = session.batch.trajectories
        self._before: Final = len(session.returns) if verifying else self._uploaded
        self._counts: dict[int, int] = {}

    def take(self, tasks: Sequence[Any], seed: int | None) -> None:
        """Collects and uploads with all tasks concurrently, then takes the step."""
        session = self._session
        self.collect(tasks, seed)
        session.adapt(timeout=self._deadline.remaining())
        if session.report is not None:
            self._report_progress(session.report.trajectories, session.report)

    def collect(self, tasks: Sequence[Any], seed: int | None) -> None:
        """Collects and uploads the missing trajectories with all tasks concurrently."""
        missing = self._wanted - self._before
        count_episodes = runtime.relay(self._count)
        collections = []
        for i, task in enumerate(tasks):
            share = missing // len(tasks) + (i < missing % len(tasks))
            if share > 0:
                progress = functools.partial(count_episodes, i)
                collections.append(functools.partial(self._collect, task, share, self._seed(seed, i), progress))
        if collections:
            runtime.run_all(collections, self._deadline.stop)

    def _collect(self, task: Any, count: int, seed: int | None, progress: CountEpisodes) -> None:
        session, policy, check = self._session, self._session.policy, self._deadline.check
        collected: list[wire.Trajectory] = []
        try:
            try:
                if is_environment(task):
                    runtime.offload(
                        collect_into, collected, policy, task, count, seed=seed, progress=progress, check=check
                    )
                while len(collected) < count:
                    with collection_errors("the collector", collected, count):
                        found = runtime.call_collector(task, policy, count - len(collected))
                    runtime.offload(take_into, collected, found, count, progress=progress, check=check)
            except Exception as error:
                self._upload_rest(collected, error)
                raise
            for part in split_upload(collected):
                session.upload(part, only_measures=self._verifying, timeout=self._deadline.remaining())
        except KeyboardInterrupt as error:  # during an upload too: a part that has arrived counts once
            self._upload_rest(collected, error)
            raise

    def _upload_rest(self, collected: Sequence[wire.Trajectory], error: BaseException) -> None:
        """Uploads the trajectories collected before a failure or Ctrl-C; a second failure does not hide the first."""
        seconds = _FINAL_UPLOAD_SECONDS if isinstance(error, KeyboardInterrupt) else None
        deadline, kept = Deadline(seconds, "the upload of the collected trajectories"), 0
        try:
            for part in split_upload(collected):
                left = [each for each in (deadline.remaining(), self._deadline.remaining()) if each is not None]
                self._session.upload(part, timeout=min(left, default=None))
                kept += len(part)
        except ThetaPrimeError as refusal:
            error.add_note(f"{len(collected) - kept} collected trajectories are lost: {refusal}")

    def _seed(self, seed: int | None, task: int) -> int | None:
        if seed is None:
            return None
        # The key includes the earlier trajectories, so that a resumed round does not repeat its first episodes.
        sequence = np.random.SeedSequence(seed, spawn_key=(self._index, self._uploaded, task))
        return int(sequence.generate_state(1)[0])

    def _count(self, task: int, collected: int) -> None:
        self._counts[task] = collected
        self._report_progress(self._before + sum(self._counts.values()), None)

    def _report_progress(self, collected: int, report: AdaptationReport | None) -> None:
        progress = Progress(
            self._session.id, self._index, self._rounds, collected, self._wanted, report, self._verifying
        )
        self._show(progress)
