"""Half-cheetah and ant with a goal velocity or a goal direction (Finn et al. 2017, section 5.3).

| module | contents |
|---|---|
| `bodies` | the two robots: physics, observation, goals, rewards, falling |
| `single` | one robot as an `Env` that can be rendered |
| `vector` | many robots as a `VectorEnv`, on native threads |
"""

from thetaprime.training.tasks.environments.locomotion.bodies import ANT, DIRECTION, HALF_CHEETAH, VELOCITY, Body, Goal
from thetaprime.training.tasks.environments.locomotion.single import (
    AntDirection,
    AntVelocity,
    HalfCheetahDirection,
    HalfCheetahVelocity,
)
from thetaprime.training.tasks.environments.locomotion.vector import LocomotionVector

__all__ = [
    "ANT",
    "DIRECTION",
    "HALF_CHEETAH",
    "VELOCITY",
    "AntDirection",
    "AntVelocity",
    "Body",
    "Goal",
    "HalfCheetahDirection",
    "HalfCheetahVelocity",
    "LocomotionVector",
]
