"""What an iteration's outer step learns from: every task's trajectories, before and after adapting."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch.distributions import Distribution

from thetaprime.models import Parameters, Policy, TrajectoryBatch, adapt_step, estimate_advantages, inner_advantages
from thetaprime.training.config import TrainConfig
from thetaprime.training.sampling.sampler import collect
from thetaprime.training.tasks import Task, TaskDistribution


@dataclasses.dataclass(frozen=True, eq=False)
class Collected:
    """Trajectories of one task, and how they are weighed.

    Attributes:
        steps: k: they were collected with θ_k, the parameters after k inner steps.
        batch: the trajectories.
        advantages: [S]; of the inner loop where they are learned from, of the outer loop where they judge.
        behavior: π_old, the distribution that their actions were drawn from.
    """

    steps: int
    batch: TrajectoryBatch
    advantages: torch.Tensor
    behavior: Distribution


@dataclasses.dataclass(frozen=True, eq=False)
class TaskData:
    """What one task contributes to an iteration.

    Attributes:
        support: D_k of each inner step, which leads from θ_k to θ_{k+1}.
        judged: what the outer loop looks at: the query trajectories D′, after those of earlier steps where
            `multi_step_loss` asks for them.
    """

    support: list[Collected]
    judged: list[Collected]

    @property
    def query(self) -> TrajectoryBatch:
        """D′, collected after the last inner step."""
        return self.judged[-1].batch


def sample_iteration(
    distribution: TaskDistribution,
    tasks: Sequence[Task],
    policy: Policy,
    parameters: Parameters,
    step_sizes: Parameters | None,
    config: TrainConfig,
    rng: np.random.Generator,
) -> list[TaskData]:
    """Adapts to each task, resampling at every inner step, and collects the query trajectories."""
    adaptation = config.adaptation
    current = [parameters] * len(tasks)
    data = [TaskData([], []) for _ in tasks]
    for step in range(adaptation.inner_steps + 1):
        last = step == adaptation.inner_steps
        trajectories = adaptation.trajectories_per_round
        if not last:
            trajectories = config.support_trajectories or trajectories
        batches = collect(distribution, tasks, policy, current, trajectories, rng=rng)
        for i, batch in enumerate(batches):
            with torch.no_grad():
                behavior = policy.distribution(current[i], batch.observations)
            if last or (config.multi_step_loss and step > 0):
                data[i].judged.append(Collected(step, batch, _outer_advantages(policy, batch, config), behavior))
            if not last:
                weights = inner_advantages(policy, batch, adaptation)
                data[i].support.append(Collected(step, batch, weights, behavior))
                current[i] = adapt_step(
                    policy, current[i], batch, adaptation, step=step, step_sizes=step_sizes, advantage=weights
                ).parameters
    return data


def _outer_advantages(policy: Policy, batch: TrajectoryBatch, config: TrainConfig) -> torch.Tensor:
    return estimate_advantages(
        batch,
        horizon=policy.environment.horizon,
        discount=config.outer_discount,
        gae_lambda=config.outer_gae_lambda,
        ridge=config.adaptation.baseline_ridge,
    )
