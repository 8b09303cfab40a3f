"""The gain of a step that was taken, from the returns before and after it."""

import functools
import math
from statistics import NormalDist
from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from thetaprime.models.verdict.verdict import Estimate

COVERAGE: Final = 0.9
"""Probability with which the interval of an estimate covers the truth."""
_MOST_FREEDOM: Final = 1000.0
_ANGLES: Final = 20_001
_FEW: Final = 4


def realized_gain(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> Estimate | None:
    """The difference of two mean returns with Welch's t interval (Welch 1947).

    The two spreads may differ: a step often lowers the noise of a policy. Fewer than four trajectories may happen to be
    alike, so their spread counts as at least that of the other side.

    Args:
        before: [N_0] returns of the policy that the step started from.
        after: [N_1] returns of the policy that the step led to.

    Returns:
        mean(after) − mean(before), in the units of the returns; None if either is empty or both are single
        trajectories, which tell no spread.
    """
    few, many = sorted((len(before), len(after)))
    if few == 0 or many == 1:
        return None
    # Squares of the largest returns must not overflow, nor those of the smallest vanish.
    unit = max(float(np.abs(before).max()), float(np.abs(after).max())) or 1.0
    samples = [np.asarray(side, dtype=np.float64) / unit for side in (before, after)]
    gain = float(samples[1].mean() - samples[0].mean())
    spreads = [_Spread.of(side) for side in samples]
    used = [
        max(own, other, key=lambda spread: spread.variance) if len(side) < _FEW else own
        for side, own, other in zip(samples, spreads, reversed(spreads), strict=True)
    ]
    errors = [spread.variance / len(side) for side, spread in zip(samples, used, strict=True)]
    error = math.sqrt(sum(errors))
    if error == 0.0:
        return Estimate(gain * unit, gain * unit, gain * unit)
    # Welch–Satterthwaite.
    freedom = 1.0 / sum((each / error**2) ** 2 / spread.freedom for each, spread in zip(errors, used, strict=True))
    half = student_quantile(freedom, COVERAGE) * error
    return Estimate(gain * unit, (gain - half) * unit, (gain + half) * unit)


class _Spread(NamedTuple):
    """A variance, and its degrees of freedom."""

    variance: float
    freedom: int

    @classmethod
    def of(cls, sample: npt.NDArray[Any]) -> Self:
        """The spread of a sample; less than any other's if the sample is a single number."""
        return cls(float(sample.var(ddof=1)), len(sample) - 1) if len(sample) > 1 else cls(-1.0, 0)


@functools.lru_cache(maxsize=256)
def student_quantile(freedom: float, coverage: float) -> float:
    """Returns t with P(|T| ≤ t) = coverage, of Student's distribution with `freedom` degrees of freedom.

    With T = √ν tan φ, the density of φ is proportional to cos^(ν−1) φ on (−π/2, π/2). Its integral is tabulated.

    Args:
        freedom: ν, at least 1; not an integer in general.
        coverage: between 0 and 1.
    """
    if freedom > _MOST_FREEDOM:
        # The first term of the expansion in 1 / ν.
        normal = NormalDist().inv_cdf(0.5 + coverage / 2.0)
        return normal + (normal**3 + normal) / (4.0 * freedom)
    angles = np.linspace(0.0, math.pi / 2.0, _ANGLES)
    density = np.cos(angles).clip(0.0) ** (freedom - 1.0)
    integral = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(freedom) * math.tan(float(np.interp(coverage * integral[-1], integral, angles)))
