"""Registers the environments of the shipped tasks with Gymnasium.

Registration names the classes and imports none, so that ``import thetaprime.training`` loads no simulator.
"""

from typing import Final

import gymnasium

POINT_NAVIGATION_ID: Final = "thetaprime/PointNavigation-v0"
POINT_NAVIGATION_HORIZON: Final = 100
LOCOMOTION_HORIZON: Final = 200
BODY_HORIZON: Final = 200
_ENVIRONMENTS: Final = "thetaprime.training.tasks.environments"

gymnasium.register(
    id=POINT_NAVIGATION_ID,
    entry_point=f"{_ENVIRONMENTS}.point_navigation:PointNavigation",
    vector_entry_point=f"{_ENVIRONMENTS}.point_navigation:PointNavigationVector",
    max_episode_steps=POINT_NAVIGATION_HORIZON,
)
for _name in ("HalfCheetahVelocity", "HalfCheetahDirection", "AntVelocity", "AntDirection"):
    gymnasium.register(
        id=f"thetaprime/{_name}-v0",
        entry_point=f"{_ENVIRONMENTS}.locomotion:{_name}",
        max_episode_steps=LOCOMOTION_HORIZON,
    )
for _name in ("HalfCheetahBody", "AntLeg", "WalkerBody"):
    gymnasium.register(
        id=f"thetaprime/{_name}-v0",
        entry_point=f"thetaprime.training.tasks.bodies.shipped:{_name}",
        max_episode_steps=BODY_HORIZON,
    )
