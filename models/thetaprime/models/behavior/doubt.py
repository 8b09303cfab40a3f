"""Says what is wrong with actions that a policy is too unlikely to have chosen."""

import dataclasses
from collections.abc import Mapping
from typing import Final, Literal

import numpy as np
import torch

from thetaprime.models.behavior.categorical import CategoricalTest
from thetaprime.models.behavior.evidence import Array
from thetaprime.models.behavior.gaussian import NEAR_CHANCE, WIDE_CHANCE, GaussianTest
from thetaprime.models.policy import Policy

Reason = Literal["DETERMINISTIC_ACTIONS", "CLIPPED_ACTIONS", "UNSCALED_ACTIONS", "OFF_POLICY"]

_CAUSE: Final = "another policy chose them, or the observations are not the raw ones it saw"
_DETERMINISTIC_SPREAD: Final = 1e-3


@dataclasses.dataclass(frozen=True)
class BehaviorDoubt:
    """One reason to refuse trajectories as off-policy.

    Attributes:
        trajectory: index of the trajectory, or None if only all trajectories together show it.
        reason: a code for programs.
        message: the found and the expected value.
    """

    trajectory: int | None
    reason: Reason
    message: str


def explain_gaussian(
    test: GaussianTest, statistics: Array, trajectory: int | None, environment_units: bool
) -> BehaviorDoubt:
    """Explains the evidence against a Gaussian policy's actions.

    Args:
        test: the test.
        statistics: [K], with evidence beyond a bound.
        trajectory: index of the trajectory that they belong to, or None.
        environment_units: whether the actions are plausible in the environment's units.
    """
    found = test.named(statistics)
    steps = int(found.steps)
    shift, spread = found.shift / found.steps, np.sqrt(np.maximum(found.spread / found.steps + 1, 0))
    cause = _strongest(test.log_ratios(statistics[None]))
    if cause == "clipped":
        message = f"{found.clipped:.0f} of {steps} actions are exactly ±1; send actions as sampled, before clipping"
        return BehaviorDoubt(trajectory, "CLIPPED_ACTIONS", message)
    if spread.max() < _DETERMINISTIC_SPREAD:
        message = "every action is the policy's mean; collect with sampled actions"
        return BehaviorDoubt(trajectory, "DETERMINISTIC_ACTIONS", message)
    if environment_units:
        message = (
            f"standardized actions spread by [{_listed(spread)}] where 1 is expected, as the environment's own units "
            "do; send actions in the policy's units, before scaling and clipping"
        )
        return BehaviorDoubt(trajectory, "UNSCALED_ACTIONS", message)
    if cause in ("mean", "mean of one"):
        near = found.near.max() if cause == "mean of one" else found.all_near
        where = "in one dimension" if cause == "mean of one" else "in every dimension"
        message = (
            f"{near:.0f} of {steps} actions are the policy's mean {where}, where at most "
            f"{steps * NEAR_CHANCE:.0f} are expected; collect with sampled actions, in every step"
        )
        return BehaviorDoubt(trajectory, "DETERMINISTIC_ACTIONS", message)
    messages = {
        "repeats": f"{found.repeats:.0f} of {steps} actions equal the action before; sample an action in every step",
        "lag": f"the noise of successive actions has correlation {found.lag / max(found.pairs * test.size, 1):.2g} "
        "where 0 is expected; draw new noise in every step",
        "wide": f"{found.wide:.0f} of {steps * test.size} standardized actions are beyond ±2, where "
        f"{steps * test.size * WIDE_CHANCE:.0f} are expected; draw normal noise, and do not truncate it",
        "together": "two dimensions of the actions have correlated noise; draw the noise of each dimension",
        "common": "the noise of the dimensions of an action is correlated; draw the noise of each dimension",
        "earlier": f"an earlier policy of the session explains them better: {_CAUSE}",
    }
    message = messages.get(
        cause,
        f"standardized actions have mean [{_listed(shift)}] and spread [{_listed(spread)}] where 0 and 1 are "
        f"expected: {_CAUSE}",
    )
    return BehaviorDoubt(trajectory, "OFF_POLICY", message)


def explain_categorical(test: CategoricalTest, statistics: Array, trajectory: int | None) -> BehaviorDoubt:
    """Explains the evidence against a categorical policy's actions; arguments as in `explain_gaussian`."""
    steps, chosen, expected, greedy, likely = statistics[:5]
    cause = _strongest(test.log_ratios(statistics[None]))
    if greedy == steps:
        message = "every action is the likeliest one; collect with sampled actions"
        return BehaviorDoubt(trajectory, "DETERMINISTIC_ACTIONS", message)
    if cause == "mean":
        message = (
            f"{greedy:.0f} of {steps:.0f} actions are the likeliest one, where {likely:.0f} are expected; collect with "
            "sampled actions, in every step"
        )
        return BehaviorDoubt(trajectory, "DETERMINISTIC_ACTIONS", message)
    messages = {
        "repeats": "too many actions equal the action before; sample an action in every step",
        "shift": f"one action is chosen too often, or too rarely: {_CAUSE}",
        "earlier": f"an earlier policy of the session explains them better: {_CAUSE}",
    }
    message = messages.get(
        cause,
        f"the actions' mean log-probability is {chosen / steps:.3g}, where {expected / steps:.3g} is expected: "
        f"{_CAUSE}",
    )
    return BehaviorDoubt(trajectory, "OFF_POLICY", message)


def in_environment_units(
    policy: Policy, outputs: tuple[torch.Tensor, ...], actions: torch.Tensor, steps: slice
) -> bool:
    """Returns whether the unscaled actions are plausible, or lie within the bounds of clipped actions."""
    _, half, middle = (each.numpy() for each in policy.scaling)
    if (half == 1).all():
        return False
    mean, std = outputs[0][steps].numpy(), np.exp(outputs[1].numpy())
    with np.errstate(over="ignore"):
        unscaled = (actions[steps].numpy() - middle) / half
        spread = np.sqrt(np.square((unscaled - mean) / std).mean(axis=0))
    return bool((np.abs(unscaled) <= 1 + 1e-5).all()) or bool(((spread > 0.7) & (spread < 1.4)).all())


def _strongest(groups: Mapping[str, tuple[float, Array]]) -> str:
    """The name of the group with the likeliest alternative."""
    return max(groups, key=lambda name: float(np.nan_to_num(groups[name][1], nan=-np.inf).max()))


def _listed(values: Array) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
