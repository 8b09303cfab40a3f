"""Reference statistics of the meta-training tasks under θ, for judging a new task."""

import numpy as np
import torch

from thetaprime.models import AdaptationSpec, Parameters, Policy, TrajectoryBatch, adapt_step
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
