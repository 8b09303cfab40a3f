"""2D navigation to goals drawn uniformly from the unit square around the origin."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from thetaprime.models import BoxAction, EnvironmentContract
from thetaprime.training.registration import POINT_NAVIGATION_HORIZON, POINT_NAVIGATION_ID
from thetaprime.training.tasks.environments import point_navigation
from thetaprime.training.tasks.protocol import Task


class PointNavigationTasks:
    """Goals U(−0.5, 0.5)² (Finn et al. 2017, section 5.3). A task is ``{"goal": [x, y]}``."""

    environment = EnvironmentContract(
        environment_id=POINT_NAVIGATION_ID,
        observation_shape=(2,),
        action=BoxAction(low=(-point_navigation.MAX_SPEED,) * 2, high=(point_navigation.MAX_SPEED,) * 2),
        horizon=POINT_NAVIGATION_HORIZON,
    )

    def sample_tasks(self, count: int, rng: np.random.Generator) -> list[Task]:
        """Draws goals."""
        goals = rng.uniform(-point_navigation.GOAL_RANGE, point_navigation.GOAL_RANGE, size=(count, 2))
        return [{"goal": goal.tolist()} for goal in goals]

    def make(self, task: Task) -> gymnasium.Env[Any, Any]:
        """``gymnasium.make`` with the task's goal."""
        return gymnasium.make(POINT_NAVIGATION_ID, goal=task["goal"])

    def make_vector(self, tasks: Sequence[Task]) -> VectorEnv[Any, Any, Any]:
        """All goals in one array."""
        goals = [task["goal"] for task in tasks]
        return point_navigation.PointNavigationVector(goals, len(tasks))
