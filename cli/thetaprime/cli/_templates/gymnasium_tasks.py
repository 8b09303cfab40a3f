"""Tasks for meta-training: Gymnasium environments that differ from task to task.

Every name and number below is an example: put your environment in its place.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from thetaprime.models import BoxAction, EnvironmentContract
from thetaprime.training import Task


class MyTasks:
    """Pendulums whose gravity, mass and motor strength differ from task to task."""

    # The spaces and the horizon of every task's environment. The observations must not
    # contain the task: a policy that observes it need not adapt. For numbered actions,
    # import DiscreteAction, and write action=DiscreteAction(count=4).
    environment = EnvironmentContract(
        environment_id="Pendulum-v1",
        observation_shape=(3,),
        action=BoxAction(low=(-2.0,), high=(2.0,)),
        horizon=200,  # steps; wrap an endless environment into gymnasium.wrappers.TimeLimit
        control_timestep=0.05,  # seconds
    )

    def sample_tasks(self, count: int, rng: np.random.Generator) -> Sequence[Task]:
        """Samples tasks with the given generator and no other; names and numbers alone."""
        return [
            {
                "gravity": float(rng.uniform(5.0, 15.0)),
                "mass": float(rng.uniform(0.5, 1.5)),
                "strength": float(rng.uniform(0.5, 1.5)),
            }
            for _ in range(count)
        ]

    def make(self, task: Task) -> gymnasium.Env[Any, Any]:
        """Makes the environment of one task."""
        env = Motor(gymnasium.make("Pendulum-v1", disable_env_checker=True))
        self.set_task(env, task)
        return env

    def set_task(self, env: gymnasium.Env[Any, Any], task: Task) -> None:
        """Gives an environment that `make` made another task, for its next episodes.

        Without this method every episode makes a new environment, which may be slow. Set
        everything that a task changes, also what a constructor derives from it.
        """
        assert isinstance(env, Motor)
        env.strength = _number(task, "strength")
        pendulum: Any = env.unwrapped
        pendulum.g = _number(task, "gravity")
        pendulum.m = _number(task, "mass")


class Motor(gymnasium.ActionWrapper[Any, Any, Any]):
    """A motor that is weaker or stronger than the policy assumes. Units differ like this."""

    strength = 1.0

    def action(self, action: Any) -> Any:
        """Scales an action. The pendulum clips it to its range."""
        return self.strength * np.asarray(action)


def _number(task: Task, name: str) -> float:
    value = task[name]
    assert isinstance(value, float)
    return value
