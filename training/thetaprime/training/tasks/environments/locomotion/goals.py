"""What a robot is asked for: the part of its reward that only the task knows."""

import dataclasses
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Goal:
    """A kind of goal.

    Attributes:
        name: as in the environments' names.
        reward: forward velocity [...] in m/s, goal [...] -> reward of one step [...].
        accepts: whether a number can be a goal.
        expected: which ones can, in words.
        default: a goal for who gives none.
    """

    name: str
    reward: Callable[[Any, Any], Any]
    accepts: Callable[[Floats], npt.NDArray[np.bool_]]
    expected: str
    default: float

    def check(self, goal: npt.ArrayLike, count: int) -> Floats:
        """[count] goals, from one for all or one for each.

        Raises:
            ValueError: they cannot be goals.
        """
        try:
            goals = np.asarray(goal, np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"goal: {goal!r}; expected {self.expected}") from error
        if goals.shape not in {(), (1,), (count,)} or not np.isfinite(goals).all() or not self.accepts(goals).all():
            raise ValueError(f"goal: {goal!r}; expected {self.expected}")
        return np.broadcast_to(goals, (count,)).copy()


VELOCITY: Final = Goal(
    name="velocity",
    reward=lambda velocity, goal: -np.abs(velocity - goal),
    accepts=np.isfinite,
    expected="a forward velocity in m/s, finite",
    default=1.0,
)
DIRECTION: Final = Goal(
    name="direction",
    reward=lambda velocity, goal: velocity * goal,
    accepts=lambda goals: np.abs(goals) == 1.0,
    expected="1 (forward) or -1 (backward)",
    default=1.0,
)
