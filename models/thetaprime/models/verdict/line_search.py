"""The next context from slopes: on along a steep ascent, between two ascents that meet, or back from failures.

Where no slope says so much, the model of the return proposes (`return_model`).
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from thetaprime.models.verdict.return_model import propose_context, relative_steepness
from thetaprime.models.verdict.rounds import Round, RoundsSpec

# Two contexts closer than this part of the first step, or of a retreat, are one.
_SAME: Final = 0.05
_SAME_RETREAT: Final = 0.5
# Tangents meet in the middle four fifths.
_EDGE: Final = 0.1


def next_context(
    rounds: Sequence[Round], best: int, radius: float, length: float, slope: float, spec: RoundsSpec
) -> tuple[float, ...]:
    """The context to try next, where no steep ascent goes on; arguments as in `propose_context`."""
    return (
        between(rounds, best, length, slope, spec)
        or retreat(rounds, best, spec)
        or propose_context(rounds, best, radius, length, slope, spec)
    )


def along(best: Round, distance: float) -> tuple[float, ...]:
    """The context at a distance in the direction of ascent."""
    return tuple(value + distance * ascent for value, ascent in zip(best.context, best.ascent, strict=True))


def between(
    rounds: Sequence[Round], best: int, length: float, slope: float, spec: RoundsSpec
) -> tuple[float, ...] | None:
    """The context where the tangents of the best context and of another one meet, if they rise toward each other.

    A return that falls with the distance from a goal has its top there.

    Args:
        rounds: the rounds to learn from.
        best: index of the best one among them.
        length: of the first step, in the context's units.
        slope: change of the return over one unit of the context, at the first context.
        spec: the settings.

    Returns:
        Between the best context and the nearest such one; None where there is none, or where the place was measured.
    """
    found, steepness = rounds[best], relative_steepness(rounds)
    middle, nearest = np.asarray(found.context), math.inf
    met: tuple[float, ...] | None = None
    for index, each in enumerate(rounds):
        distance = math.dist(each.context, found.context)
        known = all(one.ascent and one.steepness is not None for one in (found, each))
        if not known or not 0.0 < distance < nearest:
            continue
        way = (np.asarray(each.context) - middle) / distance
        here, there = float(steepness[best] * (way @ found.ascent)), float(-steepness[index] * (way @ each.ascent))
        if min(here, there) < spec.meeting:
            continue
        part = ((each.mean_return - found.mean_return) / (slope * distance) + there) / (here + there)
        nearest = distance
        met = tuple((middle + min(max(part, _EDGE), 1.0 - _EDGE) * distance * way).tolist())
    if met is None or any(math.dist(each.context, met) < _SAME * length for each in rounds):
        return None
    return met


def retreat(rounds: Sequence[Round], best: int, spec: RoundsSpec) -> tuple[float, ...] | None:
    """A context a part of the way back to the first one, if the best policy fails in some of its episodes.

    The upper quartile of the returns is what the policy reaches where it does not fail. If that exceeds the mean by
    more than the way back costs, at the mean slope of the way there, failures cost more than the way back.

    Returns:
        None where they do not, or after a retreat.
    """
    first, found = rounds[0], rounds[best]
    if found.upper is None or first.context == found.context:
        return None
    cost = spec.retreat * (found.upper - first.mean_return)
    if not 0.0 < cost < found.upper - found.mean_return:
        return None
    start, end = np.asarray(first.context), np.asarray(found.context)
    back = tuple((end + spec.retreat * (start - end)).tolist())
    near = _SAME_RETREAT * spec.retreat * math.dist(first.context, found.context)
    return None if any(math.dist(each.context, back) < near for each in rounds) else back
