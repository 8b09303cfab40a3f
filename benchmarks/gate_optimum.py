"""The power of the best possible test of discrete actions, as a limit for the on-policy test.

Where both policies are known, no test of a given level refuses more rounds than that of their likelihood ratio (Neyman
& Pearson 1933). Its distribution is that of a sum of independent terms; a saddlepoint approximation gives its tails
(Lugannani & Rice 1980) to about one per cent of themselves.
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

_Array = npt.NDArray[np.float64]
_TILTS: Final = np.linspace(0.02, 3.0, 150)
_CENTER: Final = 1e-2


def best_power(named: _Array, other: _Array, level: float) -> float:
    """Returns how often the best test of one policy against another refuses a round of the other.

    Args:
        named: [S, A], log-probabilities under the policy that the round names.
        other: [S, A], under the policy that chose the actions.
        level: how often the test refuses a round of the named policy.
    """
    ratio = other - named
    sums = _Cumulants(named, ratio, _TILTS)
    refused = np.log(np.maximum(sums.tail(_TILTS), 1e-300))
    if refused[0] <= math.log(level):
        return 1.0
    if refused[-1] > math.log(level):
        return 0.0
    # The tilt at whose mean the named policy exceeds the threshold with the probability `level`.
    tilt = np.array([np.interp(-math.log(level), -refused, _TILTS)])
    # The other policy is the named one, tilted by 1.
    return float(_Cumulants(named, ratio, tilt).tail(tilt - 1.0)[0])


class _Cumulants:
    """The cumulant generating function of the log likelihood ratio under the named policy, and its derivatives."""

    def __init__(self, named: _Array, ratio: _Array, tilts: _Array) -> None:
        tilted = named + tilts[:, None, None] * ratio
        largest = tilted.max(axis=-1, keepdims=True)
        weights = np.exp(tilted - largest)
        total = weights.sum(axis=-1)
        mean, square = ((weights * ratio**power).sum(axis=-1) / total for power in (1, 2))
        self.value = (np.log(total) + largest[..., 0]).sum(axis=-1)
        self.mean = mean.sum(axis=-1)
        self.variance = (square - mean**2).sum(axis=-1)
        self.tilts = tilts

    def tail(self, distance: _Array) -> _Array:
        """The probability of a ratio beyond the mean, under the policy that is `distance` tilts away."""
        origin = self.tilts - distance
        # The function is 0 at a tilt of 0, and at 1: both are policies.
        assert np.isin(np.round(origin, 9), (0.0, 1.0)).all()  # noqa: S101  # the callers ask for no others
        root = np.sign(distance) * np.sqrt(np.maximum(2.0 * (distance * self.mean - self.value), 0.0))
        near = np.abs(root) < _CENTER
        slope = distance * np.sqrt(self.variance)
        above = torch.special.ndtr(torch.from_numpy(-root)).numpy()
        density = np.exp(-(root**2) / 2.0) / math.sqrt(2.0 * math.pi)
        correction = np.divide(1.0, slope, where=~near, out=np.zeros_like(slope))
        correction -= np.divide(1.0, root, where=~near, out=np.zeros_like(root))
        return np.where(near, 0.5, above + density * correction)
