"""Samples trajectories of many tasks side by side, each task with its own parameters."""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.distributions import Categorical, Distribution, Independent, Normal

from thetaprime.models import (
    AdaptationSpec,
    Parameters,
    Policy,
    TrajectoryBatch,
    estimate_advantages,
    inner_advantages,
)
from thetaprime.models.inner_loop import step_length
from thetaprime.training.config import TrainConfig
from thetaprime.training.tasks.distributions import make_vector
from thetaprime.training.tasks.environment_share import Loss
from thetaprime.training.tasks.limits import RESTARTS_VARIABLE, restarts
from thetaprime.training.tasks.protocol import Park, Task, TaskDistribution
from thetaprime.training.tasks.worker_pool import WorkerError


@dataclasses.dataclass(frozen=True, eq=False)
class Collected:
    """Trajectories of one task, and their weights in a loss.

    Attributes:
        inner_step: k: θ_k sampled them, the parameters after k inner steps.
        batch: the trajectories.
        advantages: [S]; the inner loop's for support trajectories, the outer loop's for those that judge.
        behavior: π_old, the action distribution that sampled them.
        credit: [S]; E-MAML's credit of support trajectories; None elsewhere.
        length: of support trajectories, the factor on the step sizes of the step that they lead to; for T tasks, [T].
    """

    inner_step: int
    batch: TrajectoryBatch
    advantages: torch.Tensor
    behavior: Distribution
    credit: torch.Tensor | None = None
    length: float | torch.Tensor | None = None

    def first(self, trajectories: int) -> "Collected":
        """The first `trajectories` trajectories, or all if there are fewer."""
        batch = self.batch.first(trajectories)
        steps = len(batch.rewards)
        return Collected(
            self.inner_step,
            batch,
            self.advantages[:steps],
            _first_rows(self.behavior, steps),
            None if self.credit is None else self.credit[:steps],
            self.length,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class TaskData:
    """All trajectories of one task in an iteration.

    Attributes:
        support: D_k of each inner step from θ_k to θ_{k+1}.
        judged: the trajectories in the outer loss: D′ last; before it, with `multi_step_loss`, those of the policies
            after earlier inner steps.
    """

    support: list[Collected]
    judged: list[Collected]

    @property
    def query(self) -> TrajectoryBatch:
        """D′, sampled after the last inner step."""
        return self.judged[-1].batch

    @property
    def steps(self) -> int:
        """The number of steps of the support and the query."""
        return sum(sum(batch.lengths) for batch in (*(each.batch for each in self.support), self.query))

    def first(self, fraction: float) -> "TaskData":
        """The first trajectories of each inner step and of each policy that is judged, at least one each.

        Args:
            fraction: of the trajectories.
        """
        support, judged = (
            [each.first(max(1, round(fraction * len(each.batch.lengths)))) for each in collected]
            for collected in (self.support, self.judged)
        )
        return TaskData(support, judged)


@dataclasses.dataclass(frozen=True, eq=False)
class StackedTasks:
    """T tasks in one `TaskData`, for losses that are means over steps.

    Attributes:
        data: a single task's as it is (T = 1). Of several, each tensor has a leading axis of T tasks, and S is the
            longest task's. Shorter ones are padded with steps of advantage 0. The other advantages carry the factor
            that makes the mean over [T, S] the sum over tasks of the mean over each one's steps.
        tasks: T; None for a single task, without the leading axis.
        weights: of each judged policy, [T, S] or [S]: 1 / S of the task at each step, 0 in the padding.
    """

    data: TaskData
    tasks: int | None
    weights: list[torch.Tensor]


def stack_tasks(tasks: Sequence[TaskData]) -> StackedTasks:
    """Stacks tasks with equally many inner steps and judged policies."""
    if len(tasks) == 1:
        steps = [len(query.advantages) for query in tasks[0].judged]
        return StackedTasks(tasks[0], None, [torch.full((count,), 1.0 / count) for count in steps])
    supports = [_stack_collected(each) for each in zip(*(task.support for task in tasks), strict=True)]
    judged = list(zip(*(task.judged for task in tasks), strict=True))
    weights = [_padded([torch.full((len(each.advantages),), 1.0 / len(each.advantages)) for each in q]) for q in judged]
    return StackedTasks(TaskData(supports, [_stack_collected(each) for each in judged]), len(tasks), weights)


def _stack_collected(collected: Sequence[Collected]) -> Collected:
    batches = [each.batch for each in collected]
    longest = max(len(batch.rewards) for batch in batches)
    batch = dataclasses.replace(
        batches[0],
        observations=_padded([each.observations for each in batches]),
        actions=_padded([each.actions for each in batches]),
        rewards=_padded([each.rewards for each in batches]),
        lengths=(longest,) * len(batches),
    )
    factors = [len(batches) * longest / len(each.rewards) for each in batches]
    advantages = [factor * each.advantages for factor, each in zip(factors, collected, strict=True)]
    behavior = _stack_behavior([each.behavior for each in collected])
    factors_of_steps = [each.length for each in collected if each.length is not None]
    length = torch.tensor(factors_of_steps) if factors_of_steps else None
    return Collected(collected[0].inner_step, batch, _padded(advantages), behavior, length=length)


def _stack_behavior(behaviors: Sequence[Distribution]) -> Distribution:
    """The action distributions as one of [T, S]; in the padding, any."""
    if isinstance(behaviors[0], Categorical):
        logits = [each.logits for each in behaviors if isinstance(each, Categorical)]
        return Categorical(logits=_padded(logits), validate_args=False)
    means, stds = _padded([each.mean for each in behaviors]), _padded([each.stddev for each in behaviors])
    return Independent(Normal(means, stds, validate_args=False), 1, validate_args=False)


def _padded(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """T times [S_t, ...] -> [T, S, ...], zero after each one's end."""
    return torch.nn.utils.rnn.pad_sequence(list(values), batch_first=True)


def support_trajectories(
    policy: Policy,
    parameters: Parameters,
    inner_step: int,
    batch: TrajectoryBatch,
    config: TrainConfig,
    horizon: AdaptationSpec,
) -> Collected:
    """Trajectories for an inner step, with the inner loop's advantages, of the discount that the task has chosen."""
    advantages = inner_advantages(policy, batch, horizon)
    length = step_length(policy, batch, config.adaptation, inner_step).factor
    return Collected(inner_step, batch, advantages, _behavior(policy, parameters, batch), length=length)


def query_trajectories(
    policy: Policy, parameters: Parameters, inner_step: int, batch: TrajectoryBatch, config: TrainConfig
) -> Collected:
    """Trajectories for the outer loss, with the outer loop's advantages."""
    advantages = estimate_advantages(
        batch,
        horizon=policy.environment.horizon,
        discount=config.outer_discount,
        gae_lambda=config.outer_gae_lambda,
        ridge=config.adaptation.baseline_ridge,
    )
    return Collected(inner_step, batch, advantages, _behavior(policy, parameters, batch))


@torch.no_grad()
def _behavior(policy: Policy, parameters: Parameters, batch: TrajectoryBatch) -> Distribution:
    return policy.distribution(parameters, batch.observations)


def _first_rows(distribution: Distribution, rows: int) -> Distribution:
    """The action distribution at the first observations."""
    if isinstance(distribution, Categorical):
        return Categorical(logits=distribution.logits[:rows], validate_args=False)
    mean, std = distribution.mean[:rows], distribution.stddev[:rows]
    return Independent(Normal(mean, std, validate_args=False), 1, validate_args=False)


def stack(parameters: Sequence[Parameters]) -> Parameters:
    """T parameter dictionaries as one dictionary of tensors with a leading axis of T tasks."""
    return {name: torch.stack([each[name] for each in parameters]) for name in parameters[0]}


def collect(
    distribution: TaskDistribution,
    tasks: Sequence[Task],
    policy: Policy,
    parameters: Sequence[Parameters],
    trajectories: int,
    *,
    rng: np.random.Generator,
) -> list[TrajectoryBatch]:
    """Samples N whole episodes of each of T tasks, all T·N side by side.

    Each episode runs to its end in a separate environment, so that short episodes are not favored. A vector environment
    with a method `park` rests the environments whose episode has ended.

    An environment that raises, or whose worker process dies, hangs or runs short of memory, loses its episode, and a
    warning names it. The episode is sampled again with another seed, up to the limit `restarts`.

    Args:
        distribution: makes the environments.
        tasks: T tasks.
        policy: the network.
        parameters: T parameter dictionaries, one for each task.
        trajectories: N.
        rng: seeds the environments and the action noise.

    Returns:
        T batches of N trajectories.

    Raises:
        WorkerError: an environment failed more often in succession than `restarts` allows, or all of them failed.
    """
    T, N = len(tasks), trajectories
    sampled: list[list[_Episode]] = [[] for _ in range(T)]
    failures: dict[int, int] = {}  # of each task, since its last episode that ended well
    missing = list(range(T))
    while missing:
        count = max(N - len(sampled[task]) for task in missing)
        found, losses = _episodes(
            distribution, [tasks[task] for task in missing], policy, [parameters[task] for task in missing], count, rng
        )
        for task, episodes in zip(missing, found, strict=True):
            ended = [episode for episode in episodes if episode is not None]
            if ended:
                failures.pop(task, None)
            sampled[task] += ended[: N - len(sampled[task])]
        judge_losses(losses, missing, count, failures, tasks)
        missing = [task for task in missing if len(sampled[task]) < N]
    return [
        TrajectoryBatch.concatenate(
            [each.observations[:-1] for each in episodes],
            [each.actions for each in episodes],
            [each.rewards for each in episodes],
            [each.terminated for each in episodes],
            [each.observations[-1] for each in episodes],
        )
        for episodes in sampled
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class _Episode:
    """One episode of H_n steps: observations [H_n + 1, O], actions [H_n, ...] in policy units, rewards [H_n]."""

    observations: npt.NDArray[np.float32]
    actions: npt.NDArray[Any]
    rewards: npt.NDArray[np.float32]
    terminated: bool


def judge_losses(
    losses: Sequence[Loss], rows: Sequence[int], count: int, failures: dict[int, int], tasks: Sequence[Task]
) -> None:
    """Warns of the environments that failed; raises for those that fail again and again.

    Args:
        losses: of a vector with `count` environments for each of some tasks.
        rows: these tasks, by number.
        count: environments of each.
        failures: of each task since an episode of it ended; updated.
        tasks: all tasks.
    """
    if not losses:
        return
    culprits, limit = [loss for loss in losses if loss.culprit], restarts()
    whole = len(losses) == len(rows) * count and len(culprits) == len(losses) > 1
    for loss in culprits:
        task = rows[loss.row // count]
        failures[task] = failures.get(task, 0) + 1
        where = f"while {loss.verb} environment {loss.row}, task {tasks[task]}"
        if whole or failures[task] > limit:
            often = "all environments failed" if whole else f"{failures[task]} episodes of this task failed"
            raise WorkerError(
                f"{loss.summary}, {where} ({often}; {RESTARTS_VARIABLE}={limit} sets how many are sampled again)\n\n"
                f"{loss.detail}"
            )
        warnings.warn(f"{loss.summary}, {where}: the episode is sampled again", RuntimeWarning, stacklevel=3)


def _episodes(
    distribution: TaskDistribution,
    tasks: Sequence[Task],
    policy: Policy,
    parameters: Sequence[Parameters],
    trajectories: int,
    rng: np.random.Generator,
) -> tuple[list[list[_Episode | None]], Sequence[Loss]]:
    """N episodes of each of T tasks, None for those that were lost, and the losses."""
    T, N, H = len(tasks), trajectories, policy.environment.horizon
    stacked = stack([{name: value.detach() for name, value in each.items()} for each in parameters])
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    env = make_vector(distribution, [task for task in tasks for _ in range(N)])
    park: Park | None = getattr(env, "park", None)
    tolerate: Callable[[], Sequence[Loss]] | None = getattr(env, "tolerate", None)
    losses = () if tolerate is None else tolerate()
    try:
        raw, _ = env.reset(seed=int(rng.integers(2**31)))
        observation = flat_observations(raw, T * N)
        observations = np.empty((H + 1, T * N, observation.shape[1]), np.float32)
        actions: list[npt.NDArray[Any]] = []
        rewards = np.zeros((H, T * N), np.float32)
        lengths = np.full(T * N, H)
        terminated = np.zeros(T * N, np.bool_)
        running, lost = np.ones(T * N, np.bool_), np.zeros(T * N, np.bool_)
        observations[0] = observation
        for step in range(H):
            if losses:
                lost[[loss.row for loss in losses]] = True
                running &= ~lost
            if not running.any():
                break
            sampled = policy.sample(stacked, torch.from_numpy(observation).view(T, N, -1), generator)
            actions.append(sampled.flatten(0, 1).numpy())
            taken = policy.to_environment(sampled).flatten(0, 1).numpy()
            raw, reward, ends, cut, _ = env.step(taken)
            observation = flat_observations(raw, T * N)
            rewards[step], observations[step + 1] = reward, observation
            over = running & (ends | cut)
            lengths[over] = step + 1
            terminated[over] = ends[over]
            running &= ~over
            if park is not None:
                park(over)
        lost[[loss.row for loss in losses]] = True
    finally:
        env.close()
    chosen = np.stack(actions) if actions else np.empty(0)
    slots = [
        None
        if lost[slot]
        else _Episode(
            observations[: lengths[slot] + 1, slot],
            chosen[: lengths[slot], slot],
            rewards[: lengths[slot], slot],
            bool(terminated[slot]),
        )
        for slot in range(T * N)
    ]
    return [slots[task * N : (task + 1) * N] for task in range(T)], losses


def flat_observations(observations: npt.NDArray[Any], environments: int) -> npt.NDArray[np.float32]:
    """The observations of B environments as [B, O] float32."""
    return np.asarray(observations, np.float32).reshape(environments, -1)
