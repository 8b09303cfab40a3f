"""Measured returns: over gradient steps, over numbers of trajectories, and of the oracle."""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from thetaprime.models import (
    AdaptationSpec,
    MetaPolicy,
    Parameters,
    Policy,
    TrajectoryBatch,
    adapt_step,
    with_std_factor,
)
from thetaprime.models.verdict import RoundMemory, SessionStep, StepOptions, next_step
from thetaprime.training.evaluation.comparisons import Comparison, load_comparison
from thetaprime.training.evaluation.scores import Returns
from thetaprime.training.resources import MapTasks, in_turn
from thetaprime.training.sampling.sampler import collect
from thetaprime.training.tasks.distributions import resolve_tasks
from thetaprime.training.tasks.oracle import OracleTasks
from thetaprime.training.tasks.protocol import Task, TaskDistribution

OnTrajectories = Callable[[int], None]
"""Called with the number of trajectories that were just sampled."""

# Streams of the evaluation's seed: the samples of one purpose do not shift those of another.
TASKS, _EPISODES, _ORACLE, FINE_TUNING, _BUDGETS = range(5)


def stream(seed: int, *key: int) -> np.random.Generator:
    """A random generator for one purpose of an evaluation.

    Args:
        seed: of the evaluation.
        key: the purpose, then numbers that tell its streams apart.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def adaptation_curve(
    distribution: TaskDistribution,
    tasks: Sequence[Task],
    policy: Policy,
    parameters: Parameters,
    step_sizes: Parameters | None,
    adaptation: AdaptationSpec,
    *,
    gradient_steps: int,
    trajectories: int,
    seed: int,
    group: int = 0,
    on_trajectories: OnTrajectories = lambda count: None,
    each_task: MapTasks = in_turn,
) -> Returns:
    """[K + 1, T]: the mean undiscounted return on each task after 0 to K gradient steps.

    Args:
        distribution: makes the environments.
        tasks: T tasks, sampled side by side.
        policy: the network.
        parameters: θ, from which every task starts.
        step_sizes: learned step sizes, or None.
        adaptation: the inner loop.
        gradient_steps: K.
        trajectories: N of each gradient step and each return.
        seed: of the evaluation.
        group: number of this group of tasks; another group has other noise.
        on_trajectories: see `OnTrajectories`.
        each_task: applies the gradient step to each task.
    """
    current = [parameters] * len(tasks)
    curve = np.empty((gradient_steps + 1, len(tasks)))
    for step in range(gradient_steps + 1):
        rng = stream(seed, _EPISODES, step, group)
        batches = collect(distribution, tasks, policy, current, trajectories, rng=rng)
        on_trajectories(len(tasks) * trajectories)
        curve[step] = [float(batch.returns.mean()) for batch in batches]
        if step < gradient_steps:
            take = functools.partial(_adapted, policy, adaptation, step, step_sizes)
            current = each_task(take, list(zip(current, batches, strict=True)))
    return curve


def session_curve(
    meta_policy: MetaPolicy,
    distribution: TaskDistribution,
    tasks: Sequence[Task],
    *,
    gradient_steps: int,
    trajectories: int,
    seed: int,
    group: int = 0,
    on_trajectories: OnTrajectories = lambda count: None,
    each_task: MapTasks = in_turn,
) -> Returns:
    """[K + 1, T]: as `adaptation_curve`, with the steps of a session of the service under its default options."""
    sessions = [_Session(meta_policy) for _ in tasks]
    curve = np.empty((gradient_steps + 1, len(tasks)))
    for step in range(gradient_steps + 1):
        rng = stream(seed, _EPISODES, step, group)
        current = [session.policies[-1] for session in sessions]
        batches = collect(distribution, tasks, meta_policy.policy, current, trajectories, rng=rng)
        on_trajectories(len(tasks) * trajectories)
        curve[step] = [float(batch.returns.mean()) for batch in batches]
        if step < gradient_steps:
            taken = each_task(_next_step, list(zip(sessions, batches, strict=True)))
            for session, each in zip(sessions, taken, strict=True):
                session.policies.append(each.parameters)
                session.history.append(each.memory)
    return curve


class _Session:
    """The policies of a session, and what it remembers of its rounds."""

    def __init__(self, meta_policy: MetaPolicy) -> None:
        self.meta_policy = meta_policy
        self.policies = [meta_policy.parameters]
        self.history: list[RoundMemory] = []


def _next_step(start: tuple[_Session, TrajectoryBatch]) -> SessionStep:
    session, batch = start
    policies = session.policies
    return next_step(session.meta_policy, session.history, batch, policies[-1], policies.__getitem__, StepOptions())


def returns_by_budget(
    meta_policy: MetaPolicy,
    distribution: TaskDistribution,
    tasks: Sequence[Task],
    trajectories: int,
    budgets: Sequence[int],
    *,
    seed: int,
    group: int = 0,
    on_trajectories: OnTrajectories = lambda count: None,
    each_task: MapTasks = in_turn,
) -> Returns:
    """[B, T]: R_1 after a step on each number of trajectories, always the first ones of one sample."""
    policy, theta, manifest = meta_policy.policy, meta_policy.parameters, meta_policy.manifest
    rng = stream(seed, _BUDGETS, group)
    support = collect(distribution, tasks, policy, [theta] * len(tasks), max(budgets), rng=rng)
    on_trajectories(len(tasks) * max(budgets))
    take = functools.partial(_adapted, policy, manifest.adaptation, 0, meta_policy.step_sizes)
    returns = np.empty((len(budgets), len(tasks)))
    for row, budget in enumerate(budgets):
        adapted = each_task(take, [(theta, batch.first(budget)) for batch in support])
        query = collect(distribution, tasks, policy, adapted, trajectories, rng=rng)
        on_trajectories(len(tasks) * trajectories)
        returns[row] = [float(batch.returns.mean()) for batch in query]
    return returns


def _adapted(
    policy: Policy,
    adaptation: AdaptationSpec,
    step: int,
    step_sizes: Parameters | None,
    start: tuple[Parameters, TrajectoryBatch],
) -> Parameters:
    return adapt_step(policy, *start, adaptation, step=step, step_sizes=step_sizes).parameters


def oracle_noises(adaptation: AdaptationSpec) -> list[float]:
    """Factors on the oracle's noise, of which the better one counts: its learned noise, and that of θ′."""
    return sorted({1.0, adaptation.adapted_std_factor})


def oracle_returns(
    oracle: Comparison,
    distribution: TaskDistribution,
    tasks: Sequence[Task],
    trajectories: int,
    noises: Sequence[float],
    *,
    seed: int,
    group: int = 0,
    on_trajectories: OnTrajectories = lambda count: None,
) -> Returns:
    """[F, T]: the oracle's mean undiscounted return on each task, with each factor on its noise."""
    reached = np.empty((len(noises), len(tasks)))
    for row, noise in enumerate(noises):
        parameters = with_std_factor(oracle.parameters, noise)
        batches = collect(
            OracleTasks(distribution),
            tasks,
            oracle.policy,
            [parameters] * len(tasks),
            trajectories,
            rng=stream(seed, _ORACLE, group),
        )
        on_trajectories(len(tasks) * trajectories)
        reached[row] = [float(batch.returns.mean()) for batch in batches]
    return reached


def best_noise(returns: Returns) -> Returns:
    """[T]: of `oracle_returns` [F, T], those with the highest mean over tasks."""
    best: Returns = returns[returns.mean(1).argmax()]
    return best


def oracle_return(meta_policy: MetaPolicy, task: Task, episodes: int, seed: int) -> float:
    """The oracle's mean undiscounted return on one task."""
    distribution = resolve_tasks(meta_policy.manifest.provenance.distribution)
    oracle = load_comparison(meta_policy, "oracle", distribution)
    noises = oracle_noises(meta_policy.manifest.adaptation)
    return float(best_noise(oracle_returns(oracle, distribution, [task], episodes, noises, seed=seed))[0])
