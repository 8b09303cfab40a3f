"""Half-cheetah and ant, by velocity and by direction (Finn et al. 2017, section 5.3)."""

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from thetaprime.models import BoxAction, EnvironmentContract
from thetaprime.training.registration import LOCOMOTION_HORIZON
from thetaprime.training.tasks.environments.locomotion import (
    ANT,
    DIRECTION,
    HALF_CHEETAH,
    VELOCITY,
    Body,
    Goal,
    LocomotionVector,
)
from thetaprime.training.tasks.protocol import Task


class LocomotionTasks:
    """Base of the four distributions. A task is ``{"goal": g}``."""

    body: ClassVar[Body]
    kind: ClassVar[Goal]
    environment_name: ClassVar[str]

    @property
    def environment(self) -> EnvironmentContract:
        """What every task's environment sends and takes."""
        size = int(self.body.model.nu)
        return EnvironmentContract(
            environment_id=f"thetaprime/{self.environment_name}-v0",
            observation_shape=(self.body.observation_size,),
            action=BoxAction(low=(-1.0,) * size, high=(1.0,) * size),
            horizon=LOCOMOTION_HORIZON,
            control_timestep=self.body.seconds,
        )

    def sample_tasks(self, count: int, rng: np.random.Generator) -> list[Task]:
        """Draws goals."""
        return [{"goal": float(goal)} for goal in self._goals(count, rng)]

    def _goals(self, count: int, rng: np.random.Generator) -> Sequence[float]:
        raise NotImplementedError

    def make(self, task: Task) -> gymnasium.Env[Any, Any]:
        """``gymnasium.make`` with the task's goal."""
        return gymnasium.make(self.environment.environment_id, goal=task["goal"])

    def make_vector(self, tasks: Sequence[Task]) -> VectorEnv[Any, Any, Any]:
        """All robots in one simulator."""
        return LocomotionVector(self.body, self.kind, [task["goal"] for task in tasks], len(tasks))


class _Direction(LocomotionTasks):
    kind = DIRECTION

    def _goals(self, count: int, rng: np.random.Generator) -> Sequence[float]:
        # There are two tasks only. Equally many of each, from a random one on: no batch is lopsided.
        first = rng.integers(2)
        return [1.0 if (first + index) % 2 else -1.0 for index in range(count)]


class HalfCheetahVelocityTasks(LocomotionTasks):
    """Velocities U(0, 2) m/s."""

    body, kind, environment_name = HALF_CHEETAH, VELOCITY, "HalfCheetahVelocity"

    def _goals(self, count: int, rng: np.random.Generator) -> Sequence[float]:
        return [float(goal) for goal in rng.uniform(0.0, 2.0, count)]


class HalfCheetahDirectionTasks(_Direction):
    """Forward and backward."""

    body, environment_name = HALF_CHEETAH, "HalfCheetahDirection"


class AntVelocityTasks(LocomotionTasks):
    """Velocities U(0, 3) m/s."""

    body, kind, environment_name = ANT, VELOCITY, "AntVelocity"

    def _goals(self, count: int, rng: np.random.Generator) -> Sequence[float]:
        return [float(goal) for goal in rng.uniform(0.0, 3.0, count)]


class AntDirectionTasks(_Direction):
    """Forward and backward."""

    body, environment_name = ANT, "AntDirection"
