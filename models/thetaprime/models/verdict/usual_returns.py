"""The returns that are usual after adaptation in meta-training: how much a session's rounds can still gain."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Final, Self

from thetaprime.models.artifact import MetaPolicy
from thetaprime.models.verdict.decide import UNFAMILIAR
from thetaprime.models.verdict.rounds import Round, slope_left

_QUANTILES: Final = "post_adaptation_return_quantiles"
# Of 21 quantiles: the 5 % quantile. A policy below it is worse than 95 % of the policies after adaptation.
_FLOOR: Final = 1
# Half of the usual policies lie less than this share of the spread below it by chance.
_MARGIN: Final = 0.05
# The best of meta-training was measured on a few tasks: a return this share of the spread above it can still occur.
_ABOVE: Final = 0.2
# What is left to gain is not worth the risk of a step where it is this share of the gain so far.
_WORTHWHILE: Final = 0.1
# A task with a smaller p-value may be unfamiliar,
_DOUBTFUL: Final = 0.1
# and then a steep slope that is left along the way to the best context contradicts a return that looks usual.
_STEEP: Final = 0.5


@dataclasses.dataclass(frozen=True)
class UsualReturns:
    """Returns after adaptation in meta-training, in the unit of a session's returns.

    Attributes:
        low: 5 % quantile.
        middle: median.
        high: the highest.
        target: the target return; −∞ without one.
    """

    low: float
    middle: float
    high: float
    target: float

    @classmethod
    def of(cls, meta_policy: MetaPolicy, scale: float, shift: float = 0.0) -> Self | None:
        """Reads them from an artifact; None where it has none.

        Args:
            meta_policy: the artifact.
            scale: of the session's rewards, relative to meta-training.
            shift: what an offset of the rewards adds to a return.
        """
        quantiles, target = meta_policy.reference.get(_QUANTILES), meta_policy.manifest.adaptation.target_return
        if quantiles is None or len(quantiles) <= _FLOOR:
            return None
        low, middle, high = (float(quantiles[each]) * scale + shift for each in (_FLOOR, len(quantiles) // 2, -1))
        return cls(low, middle, high, -math.inf if target is None else target * scale + shift)

    def enough(self, rounds: Sequence[Round], *, level_known: bool, p_value: float | None) -> float | None:
        """The return at which a session holds; None where the level of its returns tells nothing.

        Args:
            rounds: of the session, at least one.
            level_known: whether θ's mean return was one of meta-training.
            p_value: the smallest one that the task is like those of meta-training, if known.
        """
        # Above the best of meta-training, the rewards have an offset, and no level means what it meant there.
        most = max(self.high + _ABOVE * (self.high - self.low), self.target)
        best = max(rounds, key=lambda each: each.mean_return)
        if best.mean_return > most or self._is_deceptive(rounds[0], best, p_value):
            return None
        usual = self.low - _MARGIN * (self.high - self.low)
        if not level_known or (p_value is not None and p_value < UNFAMILIAR):
            # Another body may reach more than the median of meta-training promises, or less.
            return usual
        return min(usual, self.middle - _WORTHWHILE * (best.mean_return - rounds[0].mean_return))

    def distance_left(self, best: Round, slope: float) -> float:
        """Distance in the context to a usual return.

        Args:
            best: the round of the best context.
            slope: change of the return over one unit of the context.

        Returns:
            In the context's units; ∞ where the best return is no less than usual, and tells no distance.
        """
        left = self.middle - best.mean_return
        return left / slope if left > 0.0 else math.inf

    def _is_deceptive(self, first: Round, best: Round, p_value: float | None) -> bool:
        """Whether the return goes on rising steeply behind the best context of a task that may be unfamiliar."""
        if math.isinf(self.target) or p_value is None or p_value >= _DOUBTFUL:
            return False
        left = slope_left(first, best)
        return left is not None and left > _STEEP
