"""Families with one unknown, the sign of the reward, for tests of what a recipe measures."""

from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv

from thetaprime.models import BoxAction, EnvironmentContract
from thetaprime.training.tasks import Task

HORIZON = 40


class Signs:
    """The reward is sign · action / bound some steps later, with noise. The observations tell nothing."""

    delay: ClassVar[int] = 0
    bound: ClassVar[float] = 1.0
    reward_scale: ClassVar[float] = 1.0
    reward_noise: ClassVar[float] = 0.3
    mean: ClassVar[tuple[float, ...]] = (0.0, 0.0)
    std: ClassVar[tuple[float, ...]] = (1.0, 1.0)

    @property
    def environment(self) -> EnvironmentContract:
        return EnvironmentContract(
            environment_id="signs",
            observation_shape=(len(self.mean),),
            action=BoxAction(low=(-self.bound,), high=(self.bound,)),
            horizon=HORIZON,
        )

    def sample_tasks(self, count: int, rng: np.random.Generator) -> list[Task]:
        return [{"sign": float(sign)} for sign in rng.choice([-1.0, 1.0], size=count)]

    def make(self, task: Task) -> gymnasium.Env[Any, Any]:
        raise NotImplementedError("stepped as a vector only")

    def make_vector(self, tasks: Sequence[Task]) -> VectorEnv[Any, Any, Any]:
        return _SignsVector(self, tasks)


class _SignsVector(VectorEnv[Any, Any, Any]):
    def __init__(self, family: Signs, tasks: Sequence[Task]) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.num_envs, self._family = len(tasks), family
        self._signs = np.array([task["sign"] for task in tasks])
        size = len(family.mean)
        self.single_observation_space = Box(-np.inf, np.inf, (size,), np.float32)
        self.single_action_space = Box(-family.bound, family.bound, (1,), np.float32)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self._rng = np.random.default_rng(seed)
        self._step = 0
        self._due = deque([np.zeros(self.num_envs)] * self._family.delay)
        return self._observed(), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        family = self._family
        assert not np.abs(actions).max() > family.bound * (1.0 + 1e-6)
        self._due.append(self._signs * actions[:, 0] / family.bound)
        self._step += 1
        noise = family.reward_noise * self._rng.normal(size=self.num_envs)
        reward = family.reward_scale * (self._due.popleft() + noise)
        never, over = np.zeros(self.num_envs, bool), np.full(self.num_envs, self._step >= HORIZON)
        return self._observed(), reward, never, over, {}

    def _observed(self) -> Any:
        drawn = self._rng.normal(self._family.mean, self._family.std, (self.num_envs, len(self._family.mean)))
        return drawn.astype(np.float32)


class Late(Signs):
    """Rewards that answer 12 steps later."""

    delay = 12


class OddUnits(Signs):
    """A constant observation, one in 10⁶ units; actions within ±0.1; large rewards."""

    bound, reward_scale = 0.1, 1e5
    mean, std = (7.0, 3e6, 0.0), (0.0, 1e6, 1e-4)


class Unrewarded(Signs):
    """Rewards that are always 0."""

    reward_scale = 0.0


class Noise(Signs):
    """Rewards that no action changes."""

    def make_vector(self, tasks: Sequence[Task]) -> VectorEnv[Any, Any, Any]:
        return _SignsVector(self, [{"sign": 0.0} for _ in tasks])


class Broken(Signs):
    """Observations that are NaN."""

    std = (float("nan"), 1.0)
