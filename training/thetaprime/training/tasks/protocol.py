"""What meta-training asks of a distribution of tasks."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv

from thetaprime.models import EnvironmentContract

Task = Mapping[str, float | list[float]]
"""One task: its parameters by name, as JSON can write them, for example ``{"goal": [0.3, -0.2]}``."""


@runtime_checkable
class TaskDistribution(Protocol):
    """A family of environments that share their spaces and differ in what a task says.

    Any class with these three members can be meta-trained: ``thetaprime train mypackage.mytasks:MyTasks``.
    Hold yours against `check_task_distribution` in a test.
    """

    @property
    def environment(self) -> EnvironmentContract:
        """What every task's environment sends and takes."""

    def sample_tasks(self, count: int, rng: np.random.Generator) -> Sequence[Task]:
        """Draws `count` tasks. The same generator state gives the same tasks."""

    def make(self, task: Task) -> gymnasium.Env[Any, Any]:
        """The environment of a task."""


class Park(Protocol):
    """The method ``park`` of a vector environment that can leave environments out.

    The sampler calls it, where there is one, for environments whose episode is over while those of others go on.
    """

    def __call__(self, environments: npt.NDArray[np.bool_]) -> None:
        """Leaves environments [B] as they are until the next reset; their observations are not looked at."""


@runtime_checkable
class BatchedTaskDistribution(TaskDistribution, Protocol):
    """A distribution that can step many tasks at once, without Python for each environment."""

    def make_vector(self, tasks: Sequence[Task]) -> VectorEnv[Any, Any, Any]:
        """One environment for each task, in order, with Gymnasium's next-step autoreset."""
