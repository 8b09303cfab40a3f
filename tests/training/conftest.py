"""A tiny run of every kind."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from thetaprime.models import DiscreteAction, EnvironmentContract, Parameters, Policy
from thetaprime.training.algorithms import Collected, TaskData, sample_iteration
from thetaprime.training.config import TrainConfig, load_config
from thetaprime.training.tasks import Task, TaskDistribution


class Corridor(gymnasium.Env[Any, Any]):
    """A user's own environment: walk left or right; the task says which end pays."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, goal: float) -> None:
        self.observation_space = Box(-5.0, 5.0, (1,), np.float32)
        self.action_space = Discrete(2, start=1)
        self._goal, self._position, self._elapsed = goal, 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._position, self._elapsed = int(self.np_random.integers(-1, 2)), 0
        return np.array([self._position], np.float32), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._position += 1 if action == 2 else -1
        self._elapsed += 1
        arrived = abs(self._position) >= 4
        reward = float(np.sign(self._position) == np.sign(self._goal)) if arrived else 0.0
        return np.array([self._position], np.float32), reward, arrived, self._elapsed >= 12, {}


class CorridorTasks:
    """Left or right."""

    environment = EnvironmentContract(
        environment_id="Corridor", observation_shape=(1,), action=DiscreteAction(count=2, start=1), horizon=12
    )

    def sample_tasks(self, count: int, rng: np.random.Generator) -> Sequence[Task]:
        return [{"goal": float(each)} for each in rng.choice([-1.0, 1.0], size=count)]

    def make(self, task: Task) -> gymnasium.Env[Any, Any]:
        goal = task["goal"]
        assert isinstance(goal, float)
        return Corridor(goal)


TINY: Final[dict[str, Any]] = {
    "tasks": "point-navigation",
    "iterations": 4,
    "meta_batch_size": 3,
    "checkpoint_every": 2,
    "policy.hidden_sizes": [16],
    # Smooth, so that finite differences hold: at the origin ReLU sits on its kink.
    "policy.activation": "tanh",
    "adaptation.inner_lr": 0.3,
    "adaptation.trajectories_per_round": 4,
    "fisher_fraction": 1.0,
}


def tiny_config(changes: Mapping[str, Any]) -> TrainConfig:
    """A tiny run, with some fields changed by dotted name; validated as a whole."""
    return load_config(None, {**TINY, **changes})


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch's operations on one thread, as in training: on several, tiny ones are spent waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny() -> TrainConfig:
    return tiny_config({})


def sampled(
    distribution: TaskDistribution, config: TrainConfig, step_sizes: Parameters | None = None
) -> tuple[Policy, Parameters, list[TaskData]]:
    """A fresh policy, and an iteration's trajectories with it."""
    policy = Policy(distribution.environment, config.policy)
    parameters = policy.init(0)
    rng = np.random.default_rng(0)
    tasks = distribution.sample_tasks(config.meta_batch_size, rng)
    return policy, parameters, sample_iteration(distribution, tasks, policy, parameters, step_sizes, config, rng)


def in_double(parameters: Parameters, data: list[TaskData]) -> tuple[Parameters, list[TaskData]]:
    """The same in float64, where finite differences have digits to spare."""

    def double(each: Collected) -> Collected:
        taken = each.batch.actions
        batch = dataclasses.replace(
            each.batch,
            observations=each.batch.observations.double(),
            actions=taken if taken.dtype == torch.int64 else taken.double(),
        )
        return dataclasses.replace(each, batch=batch, advantages=each.advantages.double())

    converted = [
        TaskData([double(each) for each in task.support], [double(each) for each in task.judged]) for task in data
    ]
    return {name: value.double() for name, value in parameters.items()}, converted
