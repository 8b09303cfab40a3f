"""The tasks of record as Gymnasium environments; importing this package registers them.

import gymnasium
import thetaprime.training

gymnasium.register_envs(thetaprime.training)  # says what the import is for
env = gymnasium.make("thetaprime/PointNavigation-v0", goal=(0.3, -0.2))
env = gymnasium.make("thetaprime/HalfCheetahVelocity-v0", goal=1.3)
"""

import gymnasium

from thetaprime.training.tasks.environments import locomotion, point_navigation

gymnasium.register(
    id=point_navigation.ENVIRONMENT_ID,
    entry_point=f"{point_navigation.__name__}:PointNavigation",
    vector_entry_point=f"{point_navigation.__name__}:PointNavigationVector",
    max_episode_steps=point_navigation.HORIZON,
)
for _name, _body, _kind in (
    ("HalfCheetahVelocity", locomotion.HALF_CHEETAH, locomotion.VELOCITY),
    ("HalfCheetahDirection", locomotion.HALF_CHEETAH, locomotion.DIRECTION),
    ("AntVelocity", locomotion.ANT, locomotion.VELOCITY),
    ("AntDirection", locomotion.ANT, locomotion.DIRECTION),
):
    gymnasium.register(
        id=f"thetaprime/{_name}-v0",
        entry_point=f"{locomotion.__name__}:{_name}",
        max_episode_steps=locomotion.HORIZON,
    )
