"""One Gymnasium environment as a distribution of a single task, so that the sampler can run it."""

import math
from collections.abc import Mapping
from typing import Any, Final

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from thetaprime.models import BoxAction, DiscreteAction, EnvironmentContract
from thetaprime.training.tasks.protocol import Task

_LONGEST: Final = 100_000


class FixedEnvironment:
    """One environment. Its only task has no parameters.

    Args:
        environment_id: Gymnasium id, also with the module that registers it: ``package.module:Id``.
        arguments: of the environment.
        horizon: longest episode in steps; None for the limit with which the environment is registered.

    Raises:
        ValueError: the spaces are not those that a policy can have, or no horizon is known.

    Attributes:
        environment: its contract.
    """

    def __init__(self, environment_id: str, arguments: Mapping[str, Any], horizon: int | None = None) -> None:
        self._id, self._arguments, self._horizon = environment_id, dict(arguments), horizon
        env = self.make({})
        try:
            self.environment = _contract(environment_id, env, horizon)
        finally:
            env.close()

    def sample_tasks(self, count: int, rng: np.random.Generator) -> list[Task]:
        """The one task, so many times."""
        return [{}] * count

    def make(self, task: Task) -> gymnasium.Env[Any, Any]:
        """Makes the environment."""
        return gymnasium.make(self._id, max_episode_steps=self._horizon, **self._arguments)


def _contract(environment_id: str, env: gymnasium.Env[Any, Any], horizon: int | None) -> EnvironmentContract:
    observation, action = env.observation_space, env.action_space
    if not isinstance(observation, Box) or not observation.shape:
        raise ValueError(f"{environment_id}: the observation space is {observation}; expected a Box with a shape")
    steps = horizon or (env.spec.max_episode_steps if env.spec else None)
    if not steps or steps > _LONGEST:
        raise ValueError(f"{environment_id}: episodes of {steps or 'any'} length; give a horizon up to {_LONGEST}")
    taken: BoxAction | DiscreteAction
    if isinstance(action, Discrete):
        taken = DiscreteAction(count=int(action.n), start=int(action.start))
    elif isinstance(action, Box) and len(action.shape) == 1:
        low, high = (tuple(float(each) for each in bound) for bound in (action.low, action.high))
        for index, bounds in enumerate(zip(low, high, strict=True)):
            if len({math.isfinite(each) for each in bounds}) == 2:
                raise ValueError(f"{environment_id}: action {index} has the bounds {bounds}; expected both or none")
        taken = BoxAction(low=low, high=high)
    else:
        raise ValueError(f"{environment_id}: the action space is {action}; expected a Box of one axis, or Discrete")
    return EnvironmentContract(
        environment_id=environment_id, observation_shape=observation.shape, action=taken, horizon=steps
    )
