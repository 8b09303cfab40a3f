"""How many trajectories a round needs, from the noise scale of its gradient (McCandlish et al. 2018).

The noise scale tr Σ / |G|² is the number of trajectories whose mean gradient has as much noise as signal, with G the
true gradient and Σ the covariance of one trajectory's. Both are estimated without bias from jackknife pseudo-values,
in which the baseline is fitted again without each trajectory.
"""

import functools
import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from thetaprime.models.verdict.leave_one_out import LeaveOneOut

_COSINE: Final = 0.95
_NORMAL: Final = 1.6448536269514722
_FEWEST: Final = 2
_MOST: Final = 100_000
_FLIPS: Final = 999
_FEWEST_FLIPPED: Final = 6


class NoiseScale(NamedTuple):
    """The noise scale of a gradient, by its direction. Each is a number of trajectories, inf if there is no signal.

    Attributes:
        along: from the noise along the gradient.
        across: from the noise across it.
    """

    along: float
    across: float


def noise_scale(left_out: LeaveOneOut, sizes: torch.Tensor) -> NoiseScale | None:
    """Estimates the noise scale of a step's gradient.

    Args:
        left_out: the gradients without each trajectory.
        sizes: [D] step sizes: noise counts where the step goes.

    Returns:
        None for fewer than two trajectories.
    """
    count = len(left_out.without)
    if count < _FEWEST:
        return None
    values, mean = (left_out.pseudo_values * sizes).numpy(), (left_out.whole * sizes).numpy()
    length = float(np.sqrt(np.square(mean).sum()))
    if length == 0.0:
        return NoiseScale(math.inf, math.inf)
    deviations = values - values.mean(0)
    total = float(np.square(deviations).sum()) / (count - 1)
    along = float(np.square(deviations @ (mean / length)).sum()) / (count - 1)
    signal = length**2 - total / count
    if signal <= 0.0:
        return NoiseScale(math.inf, math.inf)
    return NoiseScale(along / signal, max(total - along, 0.0) / signal)


def length_beyond_noise(left_out: LeaveOneOut) -> float | None:
    """The length of the true gradient: that of the measured one without the part that noise adds in expectation.

    |g|² of a mean of N trajectories exceeds |G|² by tr Σ / N in expectation, so it is never 0, even where the return is
    level. What is left of it here is 0 about as often as not where G is.

    Args:
        left_out: the gradients without each trajectory.

    Returns:
        None for fewer than two trajectories, which tell no noise.
    """
    count = len(left_out.without)
    if count < _FEWEST:
        return None
    deviations = left_out.pseudo_values - left_out.pseudo_values.mean(0)
    noise = float(deviations.square().sum()) / (count - 1) / count
    return math.sqrt(max(float(left_out.whole.square().sum()) - noise, 0.0))


def episodes_needed(noise: NoiseScale) -> int | None:
    """The number of trajectories whose gradient points within a cosine of .95 of the true one, with the right sign.

    With N trajectories the expected cosine is about 1 − across / 2N, and the sign is right with 95 % where
    N = 1.645² · along. Two at least: one trajectory does not tell its own noise.

    Returns:
        None if there is no signal: no number is enough, as far as the batch can tell.
    """
    if math.isinf(noise.along):
        return None
    needed = max(noise.across / (2.0 * (1.0 - _COSINE)), _NORMAL**2 * noise.along)
    return max(_FEWEST, math.ceil(min(needed, _MOST)))


def signal_p_value(left_out: LeaveOneOut) -> float | None:
    """The p-value of the hypothesis that the true gradient is 0.

    The statistic is Hotelling's T² of the pseudo-values. Its distribution under the hypothesis is that over random
    signs of the trajectories, which is exact for symmetric noise at any number of them (Fisher 1935).

    Args:
        left_out: the gradients without each trajectory.

    Returns:
        At least 1/1000; None for fewer than six trajectories, whose signs cannot tell.
    """
    values = left_out.pseudo_values.numpy()
    count = len(values)
    if count < _FEWEST_FLIPPED:
        return None
    scale = float(np.abs(values).max())
    if scale == 0.0:
        return 1.0
    values = values / scale
    # Signs do not change the second moment, so T² is a monotone function of this form.
    root = np.linalg.pinv(values.T @ values, hermitian=True)
    found = values.sum(0)
    flipped = _signs(count) @ values
    statistic, others = found @ root @ found, ((flipped @ root) * flipped).sum(1)
    return (1 + int((others >= statistic * (1.0 - 1e-9)).sum())) / (_FLIPS + 1)


@functools.lru_cache(maxsize=8)
def _signs(count: int) -> npt.NDArray[np.float64]:
    """[999, count] float64: random signs, the same for each number of trajectories."""
    generator = torch.Generator().manual_seed(count)
    signs: npt.NDArray[np.float64] = torch.randint(2, (_FLIPS, count), generator=generator).double().numpy() * 2.0 - 1.0
    return signs
