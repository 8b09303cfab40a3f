"""Did the policy that a trajectory names really choose its actions?

REINFORCE is on-policy: actions that some other policy chose, or that were scaled, clipped or made
deterministic on the way, give a wrong gradient without any error. Each test here bounds, by Chernoff's
inequality and so for any number of steps, how likely the actions are under the named policy, and speaks up only
where an honest collector would trigger it less than once in e^25 (7·10¹⁰) uploads.
"""

import dataclasses
from collections.abc import Iterator
from typing import Final, Literal

import torch
from torch.distributions import Categorical, Distribution, Normal

from thetaprime.models.batch import TrajectoryBatch
from thetaprime.models.parameters import Parameters
from thetaprime.models.policy import Policy

Reason = Literal["DETERMINISTIC_ACTIONS", "CLIPPED_ACTIONS", "UNSCALED_ACTIONS", "OFF_POLICY"]

_LOG_IMPLAUSIBLE: Final = -25.0
_TILTS: Final = (0.25, 0.5, 1.0, 2.0)


@dataclasses.dataclass(frozen=True)
class BehaviourDoubt:
    """One reason to refuse trajectories as off-policy.

    Attributes:
        trajectory: index of the trajectory, or None where only all of them together show it.
        reason: a word for programs.
        message: what came and what was expected.
    """

    trajectory: int | None
    reason: Reason
    message: str


@torch.no_grad()
def behaviour_evidence(policy: Policy, parameters: Parameters, batch: TrajectoryBatch) -> list[BehaviourDoubt]:
    """Tests each trajectory, then all together, against the policy that is said to have acted.

    Args:
        policy: the network.
        parameters: of the policy that is said to have acted.
        batch: the trajectories.

    Returns:
        Doubts, the first trajectory's first; empty where the actions are plausible.
    """
    distribution = policy.distribution(parameters, batch.observations)
    doubts = _continuous if policy.continuous else _discrete
    found = []
    for index, rows in _parts(batch):
        found += [BehaviourDoubt(index, *doubt) for doubt in doubts(policy, distribution, batch.actions, rows)]
    return found


def _parts(batch: TrajectoryBatch) -> Iterator[tuple[int | None, slice]]:
    start = 0
    for index, length in enumerate(batch.lengths):
        yield index, slice(start, start + length)
        start += length
    yield None, slice(0, start)


def _continuous(
    policy: Policy, distribution: Distribution, actions: torch.Tensor, rows: slice
) -> Iterator[tuple[Reason, str]]:
    chosen = actions[rows].double()
    normal = Normal(distribution.mean[rows].double(), distribution.stddev[rows].double(), validate_args=False)
    standard = (chosen - normal.mean) / normal.stddev
    steps, spread = len(chosen), standard.square().mean(dim=0)
    # P(χ²_n ≤ nε) and P(χ²_n ≥ nε) are both at most exp(n/2 · (ln ε + 1 − ε)); P(|N(0,1)| ≥ z) at most 2 exp(−z²/2).
    # The floor stands for actions that equal the mean exactly, up to rounding.
    ratio = spread.clamp_min(1e-12)
    log_spread = steps / 2 * (ratio.log() + 1 - ratio)
    log_shift = -standard.sum(dim=0).square() / steps / 2
    pooled = ratio.mean()
    log_pooled = steps * len(ratio) / 2 * (pooled.log() + 1 - pooled)
    plausibility = float(torch.stack([log_spread.min(), log_shift.min(), log_pooled]).min())

    clip, _, _ = policy.scaling
    at_bound = (chosen.abs() == clip) & torch.isfinite(clip)
    if int(at_bound.sum()) >= 3:
        count = int(at_bound.sum())
        yield (
            "CLIPPED_ACTIONS",
            f"{count} action values are exactly ±1; send actions as sampled, before clipping",
        )
    elif plausibility < _LOG_IMPLAUSIBLE:
        seen = ", ".join(f"{value:.3g}" for value in spread.sqrt().tolist())
        if float(spread.max()) < 1e-6:
            yield "DETERMINISTIC_ACTIONS", "every action is the policy's mean; collect with sampled actions"
        elif _in_environment_units(policy, chosen, normal):
            yield (
                "UNSCALED_ACTIONS",
                f"standardised actions spread by [{seen}] where 1 is expected, as the environment's own units do; "
                "send actions in the policy's units, before scaling and clipping",
            )
        else:
            shift = ", ".join(f"{value:.3g}" for value in standard.mean(dim=0).tolist())
            yield (
                "OFF_POLICY",
                f"standardised actions have mean [{shift}] and spread [{seen}] where 0 and 1 are expected: another "
                "policy chose them, or the observations are not the raw ones it saw",
            )


def _in_environment_units(policy: Policy, actions: torch.Tensor, normal: Normal) -> bool:
    """Whether the actions are plausible once scaling is undone, or lie within bounds that clipping would make."""
    _, half, middle = policy.scaling
    if bool((half == 1).all()):
        return False
    unscaled = (actions - middle) / half
    spread = ((unscaled - normal.mean) / normal.stddev).square().mean(dim=0).sqrt()
    return bool((unscaled.abs() <= 1 + 1e-5).all()) or bool(((spread > 0.7) & (spread < 1.4)).all())


def _discrete(
    policy: Policy, distribution: Distribution, actions: torch.Tensor, rows: slice
) -> Iterator[tuple[Reason, str]]:
    assert isinstance(distribution, Categorical)  # noqa: S101  # what a discrete head is
    log_p = distribution.logits[rows].double().log_softmax(-1)
    chosen = log_p.gather(1, actions[rows][:, None])[:, 0]
    greedy = bool((chosen == log_p.max(dim=1).values).all())
    if greedy and float(chosen.sum()) < _LOG_IMPLAUSIBLE:
        yield "DETERMINISTIC_ACTIONS", "every action is the likeliest one; collect with sampled actions"
        return
    # E[p^±λ] is known at each step, so Markov's inequality bounds both tails of Σ log p.
    bounds = [(log_p * (1 + t)).logsumexp(1).sum() - t * chosen.sum() for t in _TILTS]
    bounds += [(log_p * (1 - t)).logsumexp(1).sum() + t * chosen.sum() for t in _TILTS if t < 1]
    if float(torch.stack(bounds).min()) < _LOG_IMPLAUSIBLE:
        yield (
            "OFF_POLICY",
            f"the actions' mean log-probability is {float(chosen.mean()):.3g}, where "
            f"{float((log_p.exp() * log_p).sum(1).mean()):.3g} is expected: another policy chose them, or the "
            "observations are not the raw ones it saw",
        )
