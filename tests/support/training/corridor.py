"""A user's own environment and its tasks."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from thetaprime.models import DiscreteAction, EnvironmentContract
from thetaprime.training.tasks import Task


class Corridor(gymnasium.Env[Any, Any]):
    """A user's own environment: walk left or right. The task decides which end is rewarded."""

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
    """Tasks whose rewarded end is left or right."""

    environment = EnvironmentContract(
        environment_id="Corridor", observation_shape=(1,), action=DiscreteAction(count=2, start=1), horizon=12
    )

    def sample_tasks(self, count: int, rng: np.random.Generator) -> Sequence[Task]:
        return [{"goal": float(each)} for each in rng.choice([-1.0, 1.0], size=count)]

    def make(self, task: Task) -> gymnasium.Env[Any, Any]:
        goal = task["goal"]
        assert isinstance(goal, float)
        return Corridor(goal)


class SettableCorridorTasks(CorridorTasks):
    """The same tasks, of environments that are told their task.

    Attributes:
        made: how many environments this process has made.
    """

    made = 0

    def sample_tasks(self, count: int, rng: np.random.Generator) -> Sequence[Task]:
        return [{"goal": (-1.0) ** index} for index in range(count)]

    def make(self, task: Task) -> gymnasium.Env[Any, Any]:
        type(self).made += 1
        return super().make(task)

    def set_task(self, env: gymnasium.Env[Any, Any], task: Task) -> None:
        assert isinstance(env, Corridor)
        goal = task["goal"]
        assert isinstance(goal, float)
        env._goal = goal
