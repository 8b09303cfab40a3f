"""Weighs evidence against the claim that a policy chose its actions, at any number of moments.

An alternative is another way to choose the actions: with less noise, deterministically in part, by an earlier policy.
Under the claim, the likelihood ratio of an alternative has the mean 1 at every step, given any past. Its
product over the steps is therefore a martingale with the mean 1, and so is the weighted mean M of many alternatives. By
Ville's inequality, M ever reaches 1/α with a probability of at most α, at whichever moments and however often it is
tested (Ville 1939; Howard et al. 2021, "Time-uniform, nonparametric, nonasymptotic confidence sequences"). The order in
which steps are added must not depend on their actions.

The logarithm of M is the evidence, in nats. A round is tested in three ways, whose α add up to less than 10⁻⁷.
"""

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

Groups = dict[str, tuple[float, Array]]
"""Log likelihood ratios by name of a group: its weight, and [R, alternatives] of R sets of trajectories.

Each alternative has an equal part of its group's weight. The weights add up to at most 1."""

ROUND_BOUND: Final = -math.log(8.8e-8)
"""The evidence, in nats, at which all trajectories of a round together are refused."""
_SINGLE_BOUND: Final = -math.log(5e-9)


def single_bound(position: int | Array) -> Any:
    """The evidence, in nats, at which one upload of a round is refused by itself; the same for a trajectory.

    The bound grows with the position, so that the α of all positions add up to 5e-9 however many there are.

    Args:
        position: how many uploads (or trajectories) of the round were accepted before.
    """
    return _SINGLE_BOUND + np.log((np.asarray(position) + 1.0) * (np.asarray(position) + 2.0))


def log_weights(groups: Groups) -> Array:
    """[F]: the log of the weight of each alternative."""
    parts = [np.full(logs.shape[1], math.log(weight / logs.shape[1])) for weight, logs in groups.values()]
    return np.concatenate([np.zeros(0), *parts])


def log_sum(logs: Array) -> Array:
    """Returns log Σ exp(x) along the last axis; infinity where it is not a number."""
    top = logs.max(axis=-1)
    total = np.log(np.exp(logs - top[..., None]).sum(axis=-1)) + top
    return np.where(np.isnan(total), np.inf, total)


def share_ratios(hits: Array, trials: Array, chance: Array | float, shares: tuple[float, ...]) -> Array:
    """Log likelihood ratios of alternatives in which a share of the steps always hits; [...] -> [..., shares].

    Args:
        hits: how many steps hit.
        trials: how many steps there were.
        chance: an upper bound of the probability of a hit under the claim.
        shares: the shares.
    """
    share = np.array(shares)
    hit = np.log1p(share * (1.0 / np.asarray(chance)[..., None] - 1.0))
    ratios: Array = hits[..., None] * hit + (trials - hits)[..., None] * np.log1p(-share)
    return ratios
