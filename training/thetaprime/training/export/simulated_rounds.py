"""Simulated rounds of meta-training tasks: the episodes that calibrate the verdict on a step."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch

from thetaprime.models import InnerStep, MetaPolicy, Parameters, TrajectoryBatch, adapt_step
from thetaprime.training.sampling.sampler import collect
from thetaprime.training.tasks.protocol import Task, TaskDistribution

# So many tasks are simulated side by side and are in memory at once.
_CHUNK: Final = 12


@dataclasses.dataclass(frozen=True, eq=False)
class TaskRounds:
    """Two rounds of one task, as a session would collect them.

    Attributes:
        task: its parameters.
        first: the first round's N trajectories, collected with θ.
        step: the shipped inner step on `first`, from θ to θ_1.
        second: N trajectories, collected with θ_1. θ_1 does not depend on them, so their mean return is an unbiased
            measurement of R_1.
        fresh: N trajectories, collected with θ, that `step` does not depend on: an unbiased measurement of R_0. The
            mean return of `first` is none, given the step.
    """

    task: Task
    first: TrajectoryBatch
    step: InnerStep
    second: TrajectoryBatch
    fresh: TrajectoryBatch


def simulate_rounds(
    meta_policy: MetaPolicy, distribution: TaskDistribution, tasks: int, seed: np.random.SeedSequence
) -> Iterator[TaskRounds]:
    """Yields the rounds of fresh meta-training tasks, a few tasks at a time.

    Args:
        meta_policy: θ and its inner loop. N is its number of trajectories in a round.
        distribution: samples the tasks and makes their environments.
        tasks: how many.
        seed: of the tasks, the environments and the action noise.
    """
    chunks = -(-tasks // _CHUNK)
    for chunk, child in enumerate(seed.spawn(chunks)):
        rng = np.random.default_rng(child)
        sampled = distribution.sample_tasks(min(_CHUNK, tasks - chunk * _CHUNK), rng)
        yield from _rounds(meta_policy, distribution, sampled, rng)


def _rounds(
    meta_policy: MetaPolicy, distribution: TaskDistribution, tasks: Sequence[Task], rng: np.random.Generator
) -> Iterator[TaskRounds]:
    policy, N = meta_policy.policy, meta_policy.manifest.adaptation.trajectories_per_round
    theta = [meta_policy.parameters] * len(tasks)
    first = collect(distribution, tasks, policy, theta, N, rng=rng)
    fresh = collect(distribution, tasks, policy, theta, N, rng=rng)
    steps = [inner_step(meta_policy, batch, meta_policy.parameters, 0) for batch in first]
    second = collect(distribution, tasks, policy, [step.parameters for step in steps], N, rng=rng)
    for rounds in zip(tasks, first, steps, second, fresh, strict=True):
        yield TaskRounds(*rounds)


def inner_step(meta_policy: MetaPolicy, batch: TrajectoryBatch, parameters: Parameters, step: int) -> InnerStep:
    """The shipped inner step k on a batch that θ_k collected."""
    adaptation, step_sizes = meta_policy.manifest.adaptation, meta_policy.step_sizes
    return adapt_step(meta_policy.policy, parameters, batch, adaptation, step=step, step_sizes=step_sizes)


def concatenate(first: TrajectoryBatch, second: TrajectoryBatch) -> TrajectoryBatch:
    """The trajectories of two batches of one task, as one batch."""
    names = ("observations", "actions", "rewards", "terminated", "final_observations")
    joined = {name: torch.cat([getattr(first, name), getattr(second, name)]) for name in names}
    return TrajectoryBatch(**joined, lengths=first.lengths + second.lengths)
