"""A family of episodes of five steps, and families that break the contract."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from thetaprime.models import BoxAction, EnvironmentContract
from thetaprime.training.tasks import Task


class Short:
    """The reward is sign · action."""

    environment = EnvironmentContract(
        environment_id="short", observation_shape=(1,), action=BoxAction(low=(-1.0,), high=(1.0,)), horizon=5
    )
    steps = 5

    def sample_tasks(self, count: int, rng: np.random.Generator) -> list[Task]:
        return [{"sign": float(sign)} for sign in rng.choice([-1.0, 1.0], size=count)]

    def make(self, task: Task) -> gymnasium.Env[Any, Any]:
        return _Short(float(np.asarray(task["sign"])), self.steps)

    def set_task(self, env: gymnasium.Env[Any, Any], task: Task) -> None:
        assert isinstance(env.unwrapped, _Short)
        env.unwrapped.sign = float(np.asarray(task["sign"]))


class TooLong(Short):
    """Episodes that go on past the horizon."""

    steps = 6


class Unmakeable(Short):
    """A `make` that raises."""

    def make(self, task: Task) -> gymnasium.Env[Any, Any]:
        raise KeyError("gravity")


class _Short(gymnasium.Env[Any, Any]):
    observation_space = Box(-10.0, 10.0, (1,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, sign: float, steps: int) -> None:
        self.sign, self._most, self._steps = sign, steps, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return self._observed(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        return self._observed(), self.sign * float(action[0]), False, self._steps >= self._most, {}

    def _observed(self) -> Any:
        return self.np_random.uniform(-1.0, 1.0, 1).astype(np.float32)
