"""Collects trajectories of many tasks at once, each with its own parameters."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from thetaprime.models import Parameters, Policy, TrajectoryBatch
from thetaprime.training.tasks import Park, Task, TaskDistribution, make_vector


def stack(parameters: Sequence[Parameters]) -> Parameters:
    """T parameter dictionaries as one, each tensor with a leading axis of T tasks."""
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
    """Runs N whole episodes of each of T tasks, all T·N side by side.

    Every episode is run to its end in an environment of its own, so that short ones are not favored. An environment
    whose episode has ended is parked, where the vector environment knows how: it costs nothing while the others go on.

    Args:
        distribution: where the tasks come from.
        tasks: T tasks.
        policy: the network.
        parameters: T parameter dictionaries, one for each task.
        trajectories: N.
        rng: seeds the environments and the action noise.

    Returns:
        T batches of N trajectories.
    """
    T, N, H = len(tasks), trajectories, policy.environment.horizon
    stacked = stack([{name: value.detach() for name, value in each.items()} for each in parameters])
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    env = make_vector(distribution, [task for task in tasks for _ in range(N)])
    park: Park | None = getattr(env, "park", None)
    try:
        raw, _ = env.reset(seed=int(rng.integers(2**31)))
        observation = _flat(raw, T * N)
        observations = np.empty((H + 1, T * N, observation.shape[1]), np.float32)
        actions: list[npt.NDArray[Any]] = []
        rewards = np.zeros((H, T * N), np.float32)
        lengths = np.full(T * N, H)
        terminated = np.zeros(T * N, np.bool_)
        running = np.ones(T * N, np.bool_)
        observations[0] = observation
        for step in range(H):
            sampled = policy.sample(stacked, torch.from_numpy(observation).view(T, N, -1), generator)
            actions.append(sampled.flatten(0, 1).numpy())
            taken = policy.to_environment(sampled).flatten(0, 1).numpy()
            raw, reward, ends, cut, _ = env.step(taken)
            observation = _flat(raw, T * N)
            rewards[step], observations[step + 1] = reward, observation
            over = running & (ends | cut)
            lengths[over] = step + 1
            terminated[over] = ends[over]
            running &= ~over
            if park is not None:
                park(over)
            if not running.any():
                break
    finally:
        env.close()
    chosen = np.stack(actions)
    batches = []
    for task in range(T):
        slots = range(task * N, (task + 1) * N)
        batches.append(
            TrajectoryBatch.concatenate(
                [observations[: lengths[slot], slot] for slot in slots],
                [chosen[: lengths[slot], slot] for slot in slots],
                [rewards[: lengths[slot], slot] for slot in slots],
                [bool(terminated[slot]) for slot in slots],
                [observations[lengths[slot], slot] for slot in slots],
            )
        )
    return batches


def _flat(observations: npt.NDArray[Any], environments: int) -> npt.NDArray[np.float32]:
    return np.asarray(observations, np.float32).reshape(environments, -1)
