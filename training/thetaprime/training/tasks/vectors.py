"""Many tasks in one vector environment, whether or not the distribution has a batched form."""

import functools
from collections.abc import Sequence
from typing import Any

from gymnasium.vector import SyncVectorEnv, VectorEnv

from thetaprime.training.tasks.protocol import BatchedTaskDistribution, Task, TaskDistribution


def make_vector(distribution: TaskDistribution, tasks: Sequence[Task]) -> VectorEnv[Any, Any, Any]:
    """One environment for each task, in order: the distribution's own batched form where it has one."""
    if isinstance(distribution, BatchedTaskDistribution):
        return distribution.make_vector(tasks)
    return SyncVectorEnv([functools.partial(distribution.make, task) for task in tasks])
