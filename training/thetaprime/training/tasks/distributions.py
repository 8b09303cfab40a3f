"""The shipped task distributions (Finn et al. 2017, section 5.3), and task distributions by name."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv

from thetaprime.models import BoxAction, EnvironmentContract, RewardContract
from thetaprime.training.registration import LOCOMOTION_HORIZON, POINT_NAVIGATION_HORIZON, POINT_NAVIGATION_ID
from thetaprime.training.tasks.environments import point_navigation
from thetaprime.training.tasks.environments.locomotion import (
    ANT,
    DIRECTION,
    HALF_CHEETAH,
    VELOCITY,
    Body,
    Goal,
    LocomotionVector,
)
from thetaprime.training.tasks.protocol import BatchedTaskDistribution, Task, TaskDistribution
from thetaprime.training.tasks.vector_env import WorkersVectorEnv, worker_count


class PointNavigationTasks:
    """2D navigation to goals U(−0.5, 0.5)². A task is ``{"goal": [x, y]}``."""

    environment = EnvironmentContract(
        environment_id=POINT_NAVIGATION_ID,
        observation_shape=(2,),
        action=BoxAction(low=(-point_navigation.MAX_SPEED,) * 2, high=(point_navigation.MAX_SPEED,) * 2),
        horizon=POINT_NAVIGATION_HORIZON,
        reward=RewardContract(formula="-|position - goal|, after the move"),
    )

    task_dimensions = 2

    def sample_tasks(self, count: int, rng: np.random.Generator) -> list[Task]:
        """Samples goals."""
        return self.tasks_at(rng.random((count, 2)))

    def tasks_at(self, points: npt.NDArray[np.float64]) -> list[Task]:
        """The goals at points [T, 2] of the unit square."""
        return [{"goal": goal.tolist()} for goal in point_navigation.GOAL_RANGE * (2.0 * points - 1.0)]

    def make(self, task: Task) -> gymnasium.Env[Any, Any]:
        """Makes the registered environment with the task's goal."""
        return gymnasium.make(POINT_NAVIGATION_ID, goal=task["goal"])

    def make_vector(self, tasks: Sequence[Task]) -> VectorEnv[Any, Any, Any]:
        """Makes one environment that moves all points by one numpy operation."""
        goals = [task["goal"] for task in tasks]
        return point_navigation.PointNavigationVector(goals, len(tasks))


class LocomotionTasks:
    """Base of the four distributions of robots. A task is ``{"goal": g}``."""

    body: ClassVar[Body]
    kind: ClassVar[Goal]
    environment_name: ClassVar[str]

    @property
    def environment(self) -> EnvironmentContract:
        """The spaces, the horizon and the time step of every task's environment."""
        size = int(self.body.model.nu)
        return EnvironmentContract(
            environment_id=f"thetaprime/{self.environment_name}-v0",
            observation_shape=(self.body.observation_size,),
            action=BoxAction(low=(-1.0,) * size, high=(1.0,) * size),
            horizon=LOCOMOTION_HORIZON,
            control_timestep=self.body.seconds,
            reward=RewardContract(formula=self.body.formula(self.kind)),
        )

    def sample_tasks(self, count: int, rng: np.random.Generator) -> list[Task]:
        """Samples goals."""
        raise NotImplementedError

    def make(self, task: Task) -> gymnasium.Env[Any, Any]:
        """Makes the registered environment with the task's goal."""
        return gymnasium.make(self.environment.environment_id, goal=task["goal"])

    def make_vector(self, tasks: Sequence[Task]) -> VectorEnv[Any, Any, Any]:
        """Makes one environment that steps all robots on native threads."""
        return LocomotionVector(self.body, self.kind, [task["goal"] for task in tasks], len(tasks))


class _Direction(LocomotionTasks):
    kind = DIRECTION

    def sample_tasks(self, count: int, rng: np.random.Generator) -> list[Task]:
        """Samples goals."""
        # There are only two tasks: equally many of each, the first at random.
        first = rng.integers(2)
        return [{"goal": 1.0 if (first + index) % 2 else -1.0} for index in range(count)]


class _Velocity(LocomotionTasks):
    kind = VELOCITY
    fastest: ClassVar[float]
    task_dimensions = 1

    def sample_tasks(self, count: int, rng: np.random.Generator) -> list[Task]:
        """Samples goals."""
        return self.tasks_at(rng.random((count, 1)))

    def tasks_at(self, points: npt.NDArray[np.float64]) -> list[Task]:
        """The goals at points [T, 1] of the unit interval."""
        return [{"goal": float(goal)} for goal in self.fastest * points[:, 0]]


class HalfCheetahVelocityTasks(_Velocity):
    """Half-cheetah: forward velocities U(0, 2) m/s."""

    body, environment_name, fastest = HALF_CHEETAH, "HalfCheetahVelocity", 2.0


class HalfCheetahDirectionTasks(_Direction):
    """Half-cheetah: forward and backward."""

    body, environment_name = HALF_CHEETAH, "HalfCheetahDirection"


class AntVelocityTasks(_Velocity):
    """Ant: forward velocities U(0, 3) m/s."""

    body, environment_name, fastest = ANT, "AntVelocity", 3.0


class AntDirectionTasks(_Direction):
    """Ant: forward and backward."""

    body, environment_name = ANT, "AntDirection"


TASKS_OF_RECORD: Final[dict[str, type[TaskDistribution]]] = {
    "point-navigation": PointNavigationTasks,
    "half-cheetah-velocity": HalfCheetahVelocityTasks,
    "half-cheetah-direction": HalfCheetahDirectionTasks,
    "ant-velocity": AntVelocityTasks,
    "ant-direction": AntDirectionTasks,
}

_SHIPPED: Final = "thetaprime.training.tasks.bodies.shipped"
BODY_TASKS: Final = {
    "half-cheetah-body": f"{_SHIPPED}:HalfCheetahBodyTasks",
    "ant-leg": f"{_SHIPPED}:AntLegTasks",
    "ant-fourth-leg": f"{_SHIPPED}:AntFourthLegTasks",
    "walker-body": f"{_SHIPPED}:WalkerBodyTasks",
}
"""The shipped families whose bodies differ, by name."""


def search_working_directory() -> None:
    """Lets Python import modules of the working directory: users keep theirs there, and a console script misses it."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def resolve_tasks(reference: str) -> TaskDistribution:
    """Makes the task distribution of a name.

    Args:
        reference: a shipped name (``point-navigation``), or ``package.module:Class`` for a class whose constructor
            needs no arguments.

    Raises:
        ValueError: the name or class is unknown, or the class is not a `TaskDistribution`.
    """
    if reference in TASKS_OF_RECORD:
        return TASKS_OF_RECORD[reference]()
    names = ", ".join((*TASKS_OF_RECORD, *BODY_TASKS))
    reference = BODY_TASKS.get(reference, reference)
    module_name, colon, class_name = reference.partition(":")
    if not colon:
        raise ValueError(f"tasks: {reference!r} is unknown; expected one of {names}, or package.module:Class")
    search_working_directory()
    try:
        made = getattr(importlib.import_module(module_name), class_name)()
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(f"tasks: {reference!r} cannot be made: {error}") from error
    if not isinstance(made, TaskDistribution):
        raise ValueError(f"tasks: {reference!r} lacks a member of TaskDistribution: environment, sample_tasks or make")
    return made


def make_vector(
    distribution: TaskDistribution, tasks: Sequence[Task], *, workers: int | None = None
) -> VectorEnv[Any, Any, Any]:
    """Makes one environment for each task, in order, by the distribution's `make_vector` if it has one.

    Args:
        distribution: makes the environments.
        tasks: one for each environment.
        workers: processes that share the environments of a distribution without `make_vector`; 1 is this process
            alone. None takes ``THETAPRIME_TRAINING_WORKERS``, or else the available cores, and fewer for few
            environments.

    Raises:
        ValueError: the environment variable is not a positive number.
    """
    if isinstance(distribution, BatchedTaskDistribution):
        return distribution.make_vector(tasks)
    return WorkersVectorEnv(distribution, tasks, workers=worker_count(len(tasks), workers))
