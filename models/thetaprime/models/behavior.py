"""Tests whether the policy that a trajectory names chose its actions.

REINFORCE is on-policy: actions of another policy, or actions that were scaled, clipped or made deterministic, give a
wrong gradient without any error. Each test bounds the likelihood of the actions under the named policy by Chernoff's
inequality, for any number of steps. An honest collector fails a test less than once in e^25 (7·10¹⁰) uploads.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch

from thetaprime.models.parameters import Parameters
from thetaprime.models.policy import Policy
from thetaprime.models.trajectories import TrajectoryBatch

Reason = Literal["DETERMINISTIC_ACTIONS", "CLIPPED_ACTIONS", "UNSCALED_ACTIONS", "OFF_POLICY"]

_LOG_IMPLAUSIBLE: Final = -25.0
_TILTS: Final = (0.25, 0.5, 1.0, 2.0)

_Array = npt.NDArray[Any]


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


@torch.no_grad()
def behavior_evidence(
    policy: Policy,
    parameters: Parameters,
    batch: TrajectoryBatch,
    outputs: tuple[torch.Tensor, ...] | None = None,
) -> list[BehaviorDoubt]:
    """Tests each trajectory, then all together, against the named behavior policy.

    Args:
        policy: the network.
        parameters: of the named policy.
        batch: the trajectories.
        outputs: the result of `Policy.outputs` for them, if already computed.

    Returns:
        Doubts, the first trajectory's first; empty if the actions are plausible.
    """
    if outputs is None:
        outputs = policy.outputs(parameters, batch.observations)
    doubts = _continuous if policy.continuous else _discrete
    return list(doubts(policy, [output.numpy() for output in outputs], batch))


def _totals(batch: TrajectoryBatch, values: _Array) -> _Array:
    """[S, ...] -> [N + 1, ...]: the sum over each trajectory, then over all trajectories."""
    each = batch.sum_trajectories(values)
    return np.concatenate([each, each.sum(axis=0, keepdims=True)])


def _part(batch: TrajectoryBatch, index: int) -> tuple[int | None, slice]:
    """The trajectory of a row of `_totals` (None for all), and its steps."""
    if index == len(batch.lengths):
        return None, slice(None)
    start = sum(batch.lengths[:index])
    return index, slice(start, start + batch.lengths[index])


def _continuous(policy: Policy, outputs: list[_Array], batch: TrajectoryBatch) -> Iterator[BehaviorDoubt]:
    mean, std = outputs[0].astype(np.float64), np.exp(outputs[1].astype(np.float64))
    actions = batch.actions.numpy().astype(np.float64)
    standard = (actions - mean) / std
    steps = np.array([[*batch.lengths, sum(batch.lengths)]], np.float64).T
    shift = _totals(batch, standard) / steps
    spread = _totals(batch, np.square(standard)) / steps
    # P(χ²_n ≤ nε) and P(χ²_n ≥ nε) are both at most exp(n/2 · (ln ε + 1 − ε)); P(|N(0,1)| ≥ z) at most 2 exp(−z²/2).
    # The floor represents actions that equal the mean up to rounding.
    ratio = np.maximum(spread, 1e-12)
    log_spread = steps / 2 * (np.log(ratio) + 1 - ratio)
    log_shift = -steps / 2 * np.square(shift)
    pooled = ratio.mean(axis=1, keepdims=True)
    log_pooled = steps * ratio.shape[1] / 2 * (np.log(pooled) + 1 - pooled)
    plausibility = np.concatenate([log_spread, log_shift, log_pooled], axis=1).min(axis=1)

    clip = policy.scaling[0].numpy()
    clipped = _totals(batch, ((np.abs(actions) == clip) & np.isfinite(clip)).sum(axis=1))
    # No policy samples numbers that overflow; NaN fails the comparison.
    for row in np.flatnonzero((clipped >= 3) | ~(plausibility >= _LOG_IMPLAUSIBLE)):
        index, rows = _part(batch, int(row))
        if clipped[row] >= 3:
            message = f"{clipped[row]} action values are exactly ±1; send actions as sampled, before clipping"
            yield BehaviorDoubt(index, "CLIPPED_ACTIONS", message)
        elif np.sqrt(spread[row]).max() < 1e-6:
            message = "every action is the policy's mean; collect with sampled actions"
            yield BehaviorDoubt(index, "DETERMINISTIC_ACTIONS", message)
        elif _in_environment_units(policy, actions[rows], mean[rows], std):
            message = (
                f"standardized actions spread by [{_listed(np.sqrt(spread[row]))}] where 1 is expected, as the "
                "environment's own units do; send actions in the policy's units, before scaling and clipping"
            )
            yield BehaviorDoubt(index, "UNSCALED_ACTIONS", message)
        else:
            message = (
                f"standardized actions have mean [{_listed(shift[row])}] and spread [{_listed(np.sqrt(spread[row]))}] "
                "where 0 and 1 are expected: another policy chose them, or the observations are not the raw ones it saw"
            )
            yield BehaviorDoubt(index, "OFF_POLICY", message)


def _in_environment_units(policy: Policy, actions: _Array, mean: _Array, std: _Array) -> bool:
    """Whether the unscaled actions are plausible, or lie within the bounds of clipped actions."""
    _, half, middle = (each.numpy() for each in policy.scaling)
    if (half == 1).all():
        return False
    unscaled = (actions - middle) / half
    spread = np.sqrt(np.square((unscaled - mean) / std).mean(axis=0))
    return bool((np.abs(unscaled) <= 1 + 1e-5).all()) or bool(((spread > 0.7) & (spread < 1.4)).all())


def _discrete(policy: Policy, outputs: list[_Array], batch: TrajectoryBatch) -> Iterator[BehaviorDoubt]:
    log_p = torch.from_numpy(outputs[0]).double().log_softmax(-1)
    chosen = log_p.gather(1, batch.actions[:, None])[:, 0]
    total = _totals(batch, chosen.numpy())
    greedy = _totals(batch, (chosen != log_p.max(dim=1).values).numpy()) == 0
    # E[p^±λ] is known at each step, so Markov's inequality bounds both tails of Σ log p.
    bounds = [(log_p * (1 + t)).logsumexp(1) - t * chosen for t in _TILTS]
    bounds += [(log_p * (1 - t)).logsumexp(1) + t * chosen for t in _TILTS if t < 1]
    plausibility = _totals(batch, torch.stack(bounds, dim=1).numpy()).min(axis=1)
    for row in np.flatnonzero((greedy & (total < _LOG_IMPLAUSIBLE)) | ~(plausibility >= _LOG_IMPLAUSIBLE)):
        index, rows = _part(batch, int(row))
        if greedy[row] and total[row] < _LOG_IMPLAUSIBLE:
            message = "every action is the likeliest one; collect with sampled actions"
            yield BehaviorDoubt(index, "DETERMINISTIC_ACTIONS", message)
        else:
            expected = float((log_p[rows].exp() * log_p[rows]).sum(1).mean())
            message = (
                f"the actions' mean log-probability is {float(chosen[rows].mean()):.3g}, where {expected:.3g} is "
                "expected: another policy chose them, or the observations are not the raw ones it saw"
            )
            yield BehaviorDoubt(index, "OFF_POLICY", message)


def _listed(values: _Array) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
