"""The budget of a run: how much of it is spent, and the time that is left."""

import collections
import dataclasses
from typing import Final

from thetaprime.training.config import TrainConfig

DEFAULT_ITERATIONS: Final = 500
"""Iterations of a run whose configuration sets no limit."""
_RECENT: Final = 10


@dataclasses.dataclass(frozen=True)
class Spent:
    """The resources that a run has used so far, in all its parts.

    Attributes:
        iterations: completed.
        environment_steps: taken.
        seconds: of training.
    """

    iterations: int
    environment_steps: int
    seconds: float


class Budget:
    """The limits of a run. It ends at the first one that it reaches.

    Args:
        config: with `iterations`, `environment_steps` and `minutes`, each a limit or None.
        spent: by the run before this part of it.

    Attributes:
        iterations: the limit, or None.
        added: iterations recorded by this object.
    """

    def __init__(self, config: TrainConfig, spent: Spent) -> None:
        self._steps = config.environment_steps
        self._seconds = None if config.minutes is None else 60.0 * config.minutes
        unlimited = self._steps is None and self._seconds is None
        self.iterations = DEFAULT_ITERATIONS if config.iterations is None and unlimited else config.iterations
        self._recent = collections.deque([spent], maxlen=_RECENT + 1)
        self.added = 0

    def add(self, spent: Spent) -> None:
        """Records the totals after another iteration."""
        self._recent.append(spent)
        self.added += 1

    @property
    def exhausted(self) -> bool:
        """Whether a limit is reached, or time ends before half of another iteration."""
        pace, now = self._pace(), self._recent[-1]
        ahead = now.seconds + (pace.seconds / 2 if pace else 0.0)
        return any(used >= limit for used, limit in self._limits()) or (
            self._seconds is not None and ahead >= self._seconds
        )

    @property
    def share(self) -> float:
        """The largest share of a limit that is spent: 1 when the budget is exhausted."""
        return 1.0 if self.exhausted else min(1.0, max(used / limit for used, limit in self._limits()))

    @property
    def remaining_seconds(self) -> float:
        """Time until the first limit, at the pace of the last iterations; 0 if it is exhausted or no pace is known."""
        pace, now = self._pace(), self._recent[-1]
        if pace is None or self.exhausted:
            return 0.0
        left = []
        if self.iterations is not None:
            left.append((self.iterations - now.iterations) * pace.seconds)
        if self._steps is not None:
            left.append((self._steps - now.environment_steps) / pace.environment_steps * pace.seconds)
        if self._seconds is not None:
            left.append(self._seconds - now.seconds)
        return min(left)

    def _limits(self) -> list[tuple[float, float]]:
        now = self._recent[-1]
        pairs = [
            (now.iterations, self.iterations),
            (now.environment_steps, self._steps),
            (now.seconds, self._seconds),
        ]
        return [(used, limit) for used, limit in pairs if limit is not None]

    def _pace(self) -> "_Pace | None":
        first, last = self._recent[0], self._recent[-1]
        if first is last:  # a resumed run begins with its mean pace
            first = Spent(0, 0, 0.0)
        count = last.iterations - first.iterations
        if count <= 0:
            return None
        steps = last.environment_steps - first.environment_steps
        return _Pace((last.seconds - first.seconds) / count, max(steps / count, 1.0))


@dataclasses.dataclass(frozen=True)
class _Pace:
    """Time and environment steps of one iteration."""

    seconds: float
    environment_steps: float
