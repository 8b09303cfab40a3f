"""The tasks of record as Gymnasium environments; importing this package registers them.

import gymnasium
import thetaprime.training

gymnasium.register_envs(thetaprime.training)  # says what the import is for
env = gymnasium.make("thetaprime/PointNavigation-v0", goal=(0.3, -0.2))
"""

import gymnasium

from thetaprime.training.environments import point_navigation

_MODULE = "thetaprime.training.environments.point_navigation"

gymnasium.register(
    id=point_navigation.ENVIRONMENT_ID,
    entry_point=f"{_MODULE}:PointNavigation",
    vector_entry_point=f"{_MODULE}:PointNavigationVector",
    max_episode_steps=point_navigation.HORIZON,
)
