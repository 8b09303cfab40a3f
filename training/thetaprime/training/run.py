"""A training run: iterations of an algorithm, logs and checkpoints."""

import dataclasses
import fnmatch
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from thetaprime.models import (
    AdaptationSpec,
    Amendment,
    ArtifactError,
    Decision,
    Policy,
    RecurrentPolicy,
    load_meta_policy,
    resolve_meta_policy,
)
from thetaprime.training.algorithms import ALGORITHMS, RL2
from thetaprime.training.algorithms.objective import OuterLoop
from thetaprime.training.algorithms.rl2.warm_start import warm_started_memory
from thetaprime.training.algorithms.step_sizes import LearnedStepSizes
from thetaprime.training.algorithms.warm_start import (
    meta_policy_record,
    run_record,
    warm_started,
    warm_started_oracle,
)
from thetaprime.training.budget import Budget, Spent
from thetaprime.training.checkpoint import CHECKPOINT_NAME, CheckpointError, RunState, load_checkpoint, save_checkpoint
from thetaprime.training.config import TrainConfig
from thetaprime.training.history import POST, PRE, STEPS, append_history
from thetaprime.training.resources import MapTasks, check_memory, task_threads
from thetaprime.training.tasks.distributions import resolve_tasks
from thetaprime.training.tasks.networks import make_policy
from thetaprime.training.tasks.oracle import OracleTasks, oracle_policy
from thetaprime.training.tasks.protocol import TaskDistribution
from thetaprime.training.trackers import open_tracker

# Fields that a resumed run may change, because an iteration's result does not depend on them; and fields that it may
# never change, because the parameters, the optimizer's state or the meaning of the run depend on them.
_FREE: Final = {
    *("iterations", "minutes", "environment_steps"),
    *("checkpoint_every", "checkpoint_minutes", "threads", "tracker"),
}
_FIXED: Final = {"tasks", "method", "outer_loop", "seed", "learn_step_sizes", "policy"}


@dataclasses.dataclass(frozen=True)
class Progress:
    """The measurements of one iteration, averaged over its tasks.

    Attributes:
        iteration: counted from 1.
        pre_return: undiscounted return of θ.
        post_return: undiscounted return after adaptation; of θ in runs without inner steps.
        kl_divergence: of the meta-update, in nats.
        improvement: decrease of the meta-objective.
        accepted: whether θ moved.
        environment_steps: total so far.
        sampling_share: fraction of the iteration's time spent on sampling.
        iterations: number of iterations that limits the run; None where its time or its environment steps do.
        remaining_seconds: estimated time until the run's budget is spent; 0 at its end.
        spent: share of that budget, from 0 to 1; 1 at its end.
        first: whether this is the first iteration of this part of the run.
        measurements: others of the algorithm, by name.
    """

    iteration: int
    pre_return: float
    post_return: float
    kl_divergence: float
    improvement: float
    accepted: bool
    environment_steps: int
    sampling_share: float
    iterations: int | None
    remaining_seconds: float
    spent: float
    first: bool
    measurements: Mapping[str, float]


def run_tasks(config: TrainConfig) -> TaskDistribution:
    """The task distribution of a run; the oracle observes the task."""
    distribution = resolve_tasks(config.tasks)
    return OracleTasks(distribution) if config.method == "oracle" else distribution


def check_adapted(policy: Policy | RecurrentPolicy, adaptation: AdaptationSpec) -> None:
    """Checks that each pattern of `adaptation.adapted_parameters` names a parameter.

    Raises:
        ValueError: one names none.
    """
    names = list(policy.parameter_shapes)
    for pattern in adaptation.adapted_parameters:
        if not fnmatch.filter(names, pattern):
            raise ValueError(
                f"adaptation.adapted_parameters: {pattern!r} names no parameter; expected a pattern for some of "
                f"{', '.join(names)}"
            )


def run_policy(config: TrainConfig, distribution: TaskDistribution) -> Policy:
    """The network of a run without memory."""
    made: Callable[..., Policy] = oracle_policy if config.method == "oracle" else make_policy
    return made(distribution.environment, config.policy)


def _outer_loop(policy: Policy | RecurrentPolicy, config: TrainConfig) -> OuterLoop:
    if isinstance(policy, RecurrentPolicy):
        return RL2(policy, config)
    return ALGORITHMS[config.outer_loop](policy, config)


def train(
    config: TrainConfig,
    directory: Path,
    *,
    resume: bool = False,
    amend: bool = False,
    warm_start: Path | None = None,
    decisions: tuple[Decision, ...] = (),
    spent: Spent | None = None,
    on_iteration: Callable[[Progress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> RunState:
    """Trains until the configured budget is spent, or until `stop` returns true.

    Args:
        config: the run's configuration.
        directory: folder of the checkpoint, the learning curves and the tracker's logs.
        resume: continue from the checkpoint in the folder. On one machine a resumed run gives the same bits as an
            uninterrupted run. Only the budget, the times of checkpoints, `threads` and `tracker` may differ from the
            checkpoint.
        amend: resume with other settings, all but `_FIXED`; the state records the earlier values and their iterations.
        warm_start: where a new run begins, on the same tasks: meta-training at the folder of an oracle's run
            (`warm_started`), an oracle at an artifact (`warm_started_oracle`). The environment steps and the time of
            that run count as this run's.
        decisions: the settings that a recipe decided, for the records of a new run.
        spent: environment steps and time that a new run's preparation took; they count as the run's.
        on_iteration: called after each iteration.
        stop: called after each iteration; if it returns true, the run is saved and can be resumed.

    Returns:
        The final state, which the checkpoint holds, too.

    Raises:
        CheckpointError: there is no checkpoint to resume, or one to overwrite, or its configuration differs.
        NotEnoughMemoryError: the iteration's largest arrays exceed the available memory.
        TrackerError: the tracker is not installed, or cannot start.
    """
    # A comparison is trained without inner steps, even if its configuration has some.
    effective = config
    if config.method != "maml":
        effective = config.model_copy(
            update={"adaptation": config.adaptation.model_copy(update={"inner_steps": 0}), "learn_step_sizes": False}
        )
    distribution = run_tasks(config)
    check_memory(distribution.environment, effective)
    policy: Policy | RecurrentPolicy
    if config.method == "rl2":
        policy = RecurrentPolicy(distribution.environment, config.policy)  # training measures its normalization
    else:
        policy = run_policy(config, distribution)
    check_adapted(policy, config.adaptation)
    rng = np.random.default_rng(config.seed)
    if resume:
        if warm_start is not None:
            raise CheckpointError(f"{directory}: a warm start begins a new run; this run is resumed")
        state = _resumed(config, directory, amend=amend)
    else:
        state = _begun(config, directory, policy, rng, warm_start)
        state.decisions = decisions
        if spent is not None:
            state.environment_steps += spent.environment_steps
            state.wall_seconds += spent.seconds
    rng.bit_generator.state = state.generator_state
    step_sizes = None
    if effective.learn_step_sizes:
        step_sizes = LearnedStepSizes(state.parameters, config.adaptation.step_size, config.step_size_lr)
        if state.step_size_state:
            step_sizes.load(state.step_size_state)
    algorithm = _outer_loop(policy, effective)
    algorithm.optimizer_state = state.optimizer_state

    saved = time.monotonic()

    def checkpoint() -> None:
        nonlocal saved
        state.generator_state = dict(rng.bit_generator.state)
        state.step_size_state = step_sizes.state() if step_sizes else {}
        state.optimizer_state = algorithm.optimizer_state
        save_checkpoint(directory, state)
        saved = time.monotonic()

    budget = Budget(config, _spent(state))
    with (
        open_tracker(config, directory, first=state.iteration + 1) as log,
        task_threads(config.threads) as map_tasks,
    ):
        checkpoint()
        while not budget.exhausted:
            progress = _iterate(state, algorithm, distribution, step_sizes, rng, map_tasks, budget)
            scalars = _scalars(progress)
            log(scalars, progress.iteration)
            append_history(directory, scalars, progress.iteration)
            stopped = stop()
            if (
                stopped
                or budget.exhausted
                or state.iteration % config.checkpoint_every == 0
                or time.monotonic() - saved >= 60.0 * config.checkpoint_minutes
            ):
                checkpoint()
            on_iteration(progress)
            if stopped:
                break
    return state


def _spent(state: RunState) -> Spent:
    return Spent(state.iteration, state.environment_steps, state.wall_seconds)


def check_new(directory: Path) -> None:
    """Refuses a folder that holds a run.

    Raises:
        CheckpointError: it does.
    """
    if (directory / CHECKPOINT_NAME).exists():
        raise CheckpointError(f"{directory}: holds a run already; resume it, or choose another folder")


def _begun(
    config: TrainConfig,
    directory: Path,
    policy: Policy | RecurrentPolicy,
    rng: np.random.Generator,
    warm_start: Path | None,
) -> RunState:
    check_new(directory)
    state = RunState(config, policy.init(config.seed), {}, dict(rng.bit_generator.state))
    if warm_start is not None:
        steps = 0
        if config.method == "maml" and isinstance(policy, Policy):
            oracle = load_checkpoint(warm_start)
            state.parameters, state.warm_start = warm_started(oracle, config, policy), run_record(oracle)
        elif config.method == "oracle":
            try:
                meta_policy = load_meta_policy(resolve_meta_policy(str(warm_start)))
            except ArtifactError as error:
                raise CheckpointError(f"warm start: {error}; an oracle begins from an artifact") from error
            distribution = resolve_tasks(config.tasks)
            state.parameters, steps = warm_started_oracle(meta_policy, config, distribution, rng)
            state.warm_start = meta_policy_record(meta_policy)
            state.generator_state = dict(rng.bit_generator.state)
        elif config.method == "rl2":
            oracle = load_checkpoint(warm_start)
            distribution = resolve_tasks(config.tasks)
            state.parameters, state.optimizer_state, steps = warm_started_memory(oracle, config, distribution, rng)
            state.warm_start = run_record(oracle)
            state.generator_state = dict(rng.bit_generator.state)
        else:
            raise CheckpointError(
                f"warm start: method is {config.method!r}; only 'maml', 'oracle' and 'rl2' begin from another run"
            )
        state.environment_steps = state.warm_start.environment_steps + steps
        state.wall_seconds = state.warm_start.wall_seconds
    return state


def _resumed(config: TrainConfig, directory: Path, *, amend: bool) -> RunState:
    state = load_checkpoint(directory)
    before, now = (each.model_dump(mode="json", exclude=_FREE) for each in (state.config, config))
    changed = {field: value for field, value in before.items() if value != now[field]}
    for field, value in changed.items():
        if not amend:
            hint = "" if field in _FIXED else " (amend the run to continue with it)"
            raise CheckpointError(f"{directory}: {field} is {now[field]!r}; the run began with {value!r}{hint}")
        if field in _FIXED:
            raise CheckpointError(f"{directory}: {field} is {now[field]!r}; the run began with {value!r} and keeps it")
    if changed:
        state.amendments.append(Amendment(iteration=state.iteration, before=changed))
    state.config = config
    return state


def _iterate(
    state: RunState,
    algorithm: OuterLoop,
    distribution: TaskDistribution,
    step_sizes: LearnedStepSizes | None,
    rng: np.random.Generator,
    map_tasks: MapTasks,
    budget: Budget,
) -> Progress:
    started = time.perf_counter()
    sizes = step_sizes.values() if step_sizes else None
    found = algorithm.iterate(distribution, state.parameters, sizes, rng, map_tasks)
    update = found.update
    if step_sizes and update.step_size_gradient:
        step_sizes.update(update.step_size_gradient)
    seconds = time.perf_counter() - started

    state.parameters = update.theta
    state.iteration += 1
    state.environment_steps += found.environment_steps
    state.wall_seconds += seconds
    budget.add(_spent(state))
    return Progress(
        iteration=state.iteration,
        pre_return=found.pre_return,
        post_return=found.post_return,
        kl_divergence=update.kl_divergence,
        improvement=update.improvement,
        accepted=update.accepted,
        environment_steps=state.environment_steps,
        sampling_share=found.sampling_seconds / seconds,
        iterations=budget.iterations,
        remaining_seconds=budget.remaining_seconds,
        spent=budget.share,
        first=budget.added == 1,
        measurements=found.measurements,
    )


def _scalars(progress: Progress) -> dict[str, float]:
    return {
        PRE: progress.pre_return,
        POST: progress.post_return,
        "outer/kl_divergence": progress.kl_divergence,
        "outer/improvement": progress.improvement,
        "outer/accepted": float(progress.accepted),
        STEPS: float(progress.environment_steps),
        "run/sampling_share": progress.sampling_share,
        **progress.measurements,
    }
