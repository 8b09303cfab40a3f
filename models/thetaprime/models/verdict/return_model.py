"""A model of the return over the context, and the context that it proposes.

The context c has two to four numbers, and R(c) is an unknown return that every round measured once. A Gaussian process
over all rounds of a session (Srinivas et al. 2010), asked within a trust region around the best context (Eriksson et
al. 2019), says where the return may be higher.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from thetaprime.models.verdict.rounds import Round, RoundsSpec

Array = npt.NDArray[np.float64]

_CANDIDATES: Final = 512
_ALONG: Final = 10
_JITTER: Final = 1e-8
_BETWEEN: Final = 15
# Slopes beyond this multiple of the first one are noise.
_STEEPEST: Final = 2.0
# The error of a slope is at least that of this share of the first one.
_LEVEL: Final = 0.3


def propose_context(
    rounds: Sequence[Round], best: int, radius: float, length: float, slope: float, spec: RoundsSpec
) -> tuple[float, ...]:
    """The context with the highest upper confidence bound of the return.

    It lies within the trust region, or between the best context and another one that was measured.

    Args:
        rounds: the rounds to learn from.
        best: index of the best one among them, the middle of the region.
        radius: of the region, in the context's units.
        length: of the first step, in the context's units: the width of the model.
        slope: change of the return over one unit of the context that a direction of ascent stands for.
        spec: the settings.

    Raises:
        ValueError: a length or a slope that is not a finite number above 0.
    """
    for name, value in (("radius", radius), ("length", length), ("slope", slope)):
        if not (math.isfinite(value) and value > 0.0):
            raise ValueError(f"{name}: {value}; expected a finite number above 0")
    candidates = _candidates(rounds, best, radius)
    mean, deviation = _posterior(rounds, candidates, length, slope, spec)
    chosen = candidates[int(np.argmax(mean + spec.exploration * deviation))]
    return tuple(chosen.tolist())


def _candidates(rounds: Sequence[Round], best: int, radius: float) -> Array:
    """[K, C]: points around the best context, along its direction of ascent, and between it and the other contexts.

    The points are the same in every session, up to place and size, so that equal histories give equal steps.
    """
    middle = np.asarray(rounds[best].context)
    size = len(middle)
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((_CANDIDATES, size))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    ball = directions * rng.random((_CANDIDATES, 1)) ** (1.0 / size)
    ascent = np.linspace(1.0 / _ALONG, 1.0, _ALONG)[:, None] * np.asarray(rounds[best].ascent or (0.0,) * size)
    others = sorted({each.context for each in rounds} - {rounds[best].context})
    parts = np.linspace(0.0, 1.0, _BETWEEN + 2)[1:-1, None]
    between = [parts * (np.asarray(context) - middle) for context in others]
    points: Array = middle + np.concatenate([radius * ball, radius * ascent, *between])
    return points


def _posterior(
    rounds: Sequence[Round], points: Array, length: float, slope: float, spec: RoundsSpec
) -> tuple[Array, Array]:
    """Mean and standard deviation [K] of the return at some contexts, in units of the model's amplitude.

    The kernel is Matérn's of smoothness 5/2 (Rasmussen & Williams 2006, Eq. 4.17), as wide as the first step. A
    direction of ascent enters as a second observation of its round, a tenth of the first step ahead.
    """
    contexts = np.array([each.context for each in rounds])
    ascents = np.array([each.ascent or (0.0,) * len(each.context) for each in rounds])
    returns = np.array([each.mean_return for each in rounds])
    # Scaled before it is squared: returns may be of any size.
    largest = max(float(np.abs(returns - np.median(returns)).max()), slope * length)
    amplitude = max(float(((returns - np.median(returns)) / largest).std()) * largest, 0.5 * slope * length)
    values = (returns - np.median(returns)) / amplitude
    spread = float(np.ptp(returns))
    errors = np.array([_error(each, spread) / amplitude for each in rounds])
    ahead = 0.1 * length
    rise = slope * ahead / amplitude * relative_steepness(rounds)
    moved = np.linalg.norm(ascents, axis=1) > 0.5
    at = np.concatenate([contexts, (contexts + ahead * ascents)[moved]])
    seen = np.concatenate([values, (values + spec.slope_share * rise)[moved]])
    noise = np.concatenate([errors, np.hypot(errors, spec.slope_error * np.maximum(rise, _LEVEL * rise[0]))[moved]])
    gram = _kernel(at, at, length) + np.diag(noise**2 + _JITTER)
    factor = np.linalg.cholesky(gram)
    whitened = np.linalg.solve(factor, _kernel(points, at, length).T)
    mean = whitened.T @ np.linalg.solve(factor, seen)
    variance = 1.0 - np.square(whitened).sum(0)
    return mean, np.sqrt(np.maximum(variance, 0.0))


def relative_steepness(rounds: Sequence[Round]) -> Array:
    """[K]: the length of each round's gradient as a part of the first one's; 1 where it is unknown."""
    first = rounds[0].steepness
    if not first:
        return np.ones(len(rounds))
    return np.array([1.0 if each.steepness is None else min(each.steepness / first, _STEEPEST) for each in rounds])


def _error(measured: Round, spread: float) -> float:
    deviation = spread if measured.deviation is None else measured.deviation
    return deviation / math.sqrt(measured.trajectories)


def _kernel(left: Array, right: Array, length: float) -> Array:
    scaled = math.sqrt(5.0) * np.linalg.norm(left[:, None] - right[None], axis=-1) / length
    values: Array = (1.0 + scaled + scaled**2 / 3.0) * np.exp(-scaled)
    return values
