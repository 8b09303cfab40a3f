"""Half-cheetah and ant, asked for a velocity or a direction (Finn et al. 2017, section 5.3).

| module | what |
|---|---|
| `bodies` | the two bodies: physics, what is observed, what it costs, when it falls |
| `goals` | what is asked for: a velocity, or a direction |
| `single` | one robot, as an `Env` that can be rendered |
| `simulator` | many robots a step further at once, on native threads |
| `vector` | many robots, as a `VectorEnv` |
"""

from thetaprime.training.tasks.environments.locomotion.bodies import ANT, HALF_CHEETAH, Body
from thetaprime.training.tasks.environments.locomotion.goals import DIRECTION, VELOCITY, Goal
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
