"""The interface of task distributions."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeGuard, runtime_checkable

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv

from thetaprime.models import EnvironmentContract

Task = Mapping[str, float | list[float]]
"""One task: its parameters by name, as JSON can write them, for example ``{"goal": [0.3, -0.2]}``."""


@runtime_checkable
class TaskDistribution(Protocol):
    """A family of environments with the same spaces, which differ in the parameters of a task.

    Any class with these three members can be meta-trained: ``thetaprime train mypackage.mytasks:MyTasks``.
    `check_task_distribution` tests yours.
    """

    @property
    def environment(self) -> EnvironmentContract:
        """The spaces, the horizon and the time step of every task's environment."""

    def sample_tasks(self, count: int, rng: np.random.Generator) -> Sequence[Task]:
        """Samples `count` tasks. The same generator state gives the same tasks."""

    def make(self, task: Task) -> gymnasium.Env[Any, Any]:
        """Makes the environment of a task."""


@runtime_checkable
class SpreadTaskDistribution(TaskDistribution, Protocol):
    """A task distribution that makes tasks from points of the unit cube, so that a meta-batch can be spread evenly.

    Attributes:
        task_dimensions: D, the dimensions of the cube.
    """

    task_dimensions: int

    def tasks_at(self, points: npt.NDArray[np.float64]) -> Sequence[Task]:
        """One task for each of `points` [T, D] in [0, 1). Uniform points give tasks distributed as `sample_tasks`'s."""


@runtime_checkable
class SettableTaskDistribution(TaskDistribution, Protocol):
    """A task distribution that gives an environment another task, for environments that take long to make."""

    def set_task(self, env: gymnasium.Env[Any, Any], task: Task) -> None:
        """Gives an environment another task.

        From its next reset the environment behaves as one that `make` makes for the task. Earlier steps leave no trace.

        Args:
            env: an environment that `make` made, for any task; it may be in the middle of an episode.
            task: the task of its next episodes.
        """


def can_set_task(distribution: TaskDistribution) -> TypeGuard[SettableTaskDistribution]:
    """Whether a distribution gives environments other tasks."""
    return hasattr(distribution, "set_task")


class Park(Protocol):
    """The optional method ``park`` of a vector environment, which stops stepping some of its environments.

    The sampler calls it for environments whose episode has ended before the others'.
    """

    def __call__(self, environments: npt.NDArray[np.bool_]) -> None:
        """Stops stepping the environments that are true in [B] until the next reset."""


@runtime_checkable
class BatchedTaskDistribution(TaskDistribution, Protocol):
    """A task distribution with a vector environment that steps many tasks at once."""

    def make_vector(self, tasks: Sequence[Task]) -> VectorEnv[Any, Any, Any]:
        """Makes one environment for each task, in order, with Gymnasium's next-step autoreset."""
