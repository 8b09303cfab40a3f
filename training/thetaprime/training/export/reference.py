"""Reference statistics of the meta-training tasks under θ, for judging a new task."""

from collections.abc import Callable

import numpy as np
import torch

from thetaprime.models import (
    AdaptationSpec,
    Parameters,
    Policy,
    RewardContract,
    RewardDeviation,
    TrajectoryBatch,
    adapt_step,
    reward_deviation,
    reward_signal,
)
from thetaprime.training.sampling.sampler import collect
from thetaprime.training.tasks.protocol import TaskDistribution

_TASKS = 40
_GOLDEN = 8
_QUANTILES = torch.linspace(0, 1, 21, dtype=torch.float64)


def describe_tasks(
    distribution: TaskDistribution,
    policy: Policy,
    parameters: Parameters,
    step_sizes: Parameters | None,
    adaptation: AdaptationSpec,
    seed: int,
) -> tuple[Parameters, torch.Tensor]:
    """Measures θ on fresh meta-training tasks, before and after one inner step.

    Returns:
        Tensors by name: mean and standard deviation [O] of the observations, and 21 evenly spaced quantiles of the
        tasks' mean returns before and after the step. And observations [K, *observation_shape] for golden vectors.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    tasks = distribution.sample_tasks(_TASKS, rng)
    N = adaptation.trajectories_per_round
    before = collect(distribution, tasks, policy, [parameters] * _TASKS, N, rng=rng)
    adapted = [adapt_step(policy, parameters, b, adaptation, step=0, step_sizes=step_sizes).parameters for b in before]
    after = collect(distribution, tasks, policy, adapted, N, rng=rng)
    observations = torch.cat([batch.observations for batch in before])
    chosen = torch.from_numpy(rng.choice(len(observations), _GOLDEN, replace=len(observations) < _GOLDEN))
    golden = observations[chosen].reshape(_GOLDEN, *policy.environment.observation_shape)
    return {
        "observation_mean": observations.double().mean(0).float(),
        "observation_std": observations.double().std(0).float(),
        "pre_adaptation_return_quantiles": _quantiles(before),
        "post_adaptation_return_quantiles": _quantiles(after),
    }, golden


def _quantiles(batches: list[TrajectoryBatch]) -> torch.Tensor:
    return torch.stack([batch.returns.mean() for batch in batches]).quantile(_QUANTILES).float()


def measure_reward(
    distribution: TaskDistribution,
    policy: Policy,
    parameters: Parameters,
    step_sizes: Parameters | None,
    adaptation: AdaptationSpec,
    seed: int,
) -> RewardContract | None:
    """Measures the reward of fresh meta-training tasks, under θ and after one inner step.

    Returns:
        The distribution's formula with its ranges and deviations; None if the distribution states no formula.
    """
    stated = distribution.environment.reward
    if stated is None:
        return None
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))
    tasks = distribution.sample_tasks(_TASKS, rng)
    N = adaptation.trajectories_per_round
    before = collect(distribution, tasks, policy, [parameters] * len(tasks), N, rng=rng)
    adapted = [adapt_step(policy, parameters, b, adaptation, step=0, step_sizes=step_sizes).parameters for b in before]
    after = collect(distribution, tasks, policy, adapted, N, rng=rng)
    rewards = torch.cat([batch.rewards for batch in before])
    returns = torch.stack([batch.returns.mean() for batch in before])
    deviations, signals = (
        [_over_tasks(measure, batches, adaptation.baseline_ridge) for batches in (before, after)]
        for measure in (reward_deviation, reward_signal)
    )
    return RewardContract(
        formula=stated.formula,
        step_range=(_rounded(rewards.min()), _rounded(rewards.max())),
        return_range=(_rounded(returns.min()), _rounded(returns.max())),
        deviation=tuple(each for each in deviations if each is not None) if all(deviations) else (),
        signal=tuple(each for each in signals if each is not None) if all(signals) else (),
        tasks=len(tasks),
        seed=seed,
    )


def _over_tasks(
    measure: Callable[[TrajectoryBatch, float], float], batches: list[TrajectoryBatch], ridge: float
) -> RewardDeviation | None:
    """A deviation over tasks; None if it is 0 on a task, and tells no scale."""
    found = torch.tensor([measure(batch, ridge) for batch in batches], dtype=torch.float64)
    if bool((found <= 0).any()):
        return None
    return RewardDeviation(median=_rounded(found.median()), low=_rounded(found.min()), high=_rounded(found.max()))


def _rounded(value: torch.Tensor) -> float:
    """A number for people and files: six significant digits."""
    return float(f"{float(value):.6g}")
