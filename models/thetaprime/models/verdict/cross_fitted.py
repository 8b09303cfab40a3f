"""The gain of a short step, from the episodes of the round alone.

A step that fits the noise of its episodes looks better on them than it is. So each half of the trajectories proposes
a step of the same length, and the other half judges it, with a baseline that the first half fitted (cross-fitting;
Chernozhukov et al. 2018, section 3). The judge is the surrogate of conservative policy iteration (Kakade & Langford
2002; Schulman et al. 2015, Eq. 3) on undiscounted returns,

    gain = mean over trajectories of Σ_t (π'(a_t|o_t) / π(a_t|o_t) − 1) A_t.

It leaves out that π' meets other states than π. Longer steps than `MOST_KL` lead where that counts, so they get no
number.
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch

from thetaprime.models.head import LOG_STD
from thetaprime.models.inner_loop import adapt_step
from thetaprime.models.parameters import Parameters
from thetaprime.models.policy import Policy
from thetaprime.models.spec import AdaptationSpec
from thetaprime.models.trajectories import TrajectoryBatch, baseline_inputs, baseline_targets
from thetaprime.models.verdict.gain import COVERAGE, student_quantile
from thetaprime.models.verdict.verdict import Estimate

MOST_KL: Final = 0.05
"""The longest step that is judged, as mean KL divergence in nats."""
_FEWEST: Final = 4
"""Trajectories that a half needs."""
_SMALLEST: Final = 1e-12


class CrossFittedGain(NamedTuple):
    """A gain with the episodes that it rests on.

    Attributes:
        gain: in the units of the rewards, with its interval.
        effective_sample_size: of the ratios π'/π, in trajectories (Kong 1992).
    """

    gain: Estimate
    effective_sample_size: float


def cross_fitted_gain(
    policy: Policy,
    before: Parameters,
    after: Parameters,
    batch: TrajectoryBatch,
    direction: Parameters,
    adaptation: AdaptationSpec,
    step_sizes: Parameters | None,
) -> CrossFittedGain | None:
    """Estimates the gain of a short step along the gradient.

    Args:
        policy: the network.
        before: θ_k, which collected the batch.
        after: θ_{k+1}, at most `MOST_KL` away.
        batch: N trajectories.
        direction: of the step, as `InnerStep.direction`.
        adaptation: the inner loop, for the directions of the halves.
        step_sizes: as in `adapt_step`.

    Returns:
        The return of θ_{k+1} less that of θ_k; None for fewer than eight trajectories, or without a direction.
    """
    count = len(batch.lengths)
    if count < 2 * _FEWEST:
        return None
    moving = [name for name in sorted(direction) if name != LOG_STD]
    wanted, whole = _norm([after[name] - before[name] for name in moving]), _norm([direction[name] for name in moving])
    if min(wanted, whole) < _SMALLEST:
        return None
    # The change of the noise that is no part of the gradient, such as `adapted_std_factor`, belongs to any step.
    quiet = {}
    if LOG_STD in after:
        quiet[LOG_STD] = after[LOG_STD] - before[LOG_STD] + wanted / whole * direction.get(LOG_STD, 0.0)
    halves = [batch.select(range(start, count, 2)) for start in (0, 1)]
    gains, ratios = [], []
    for proposing, judging in (halves, reversed(halves)):
        proposed = adapt_step(
            policy, before, proposing, adaptation, step=0, step_sizes=step_sizes, length=1.0
        ).direction
        length = _norm([proposed[name] for name in moving])
        if length < _SMALLEST:
            return None
        moved = {
            name: value - wanted / length * proposed.get(name, 0.0) + quiet.get(name, 0.0)
            for name, value in before.items()
        }
        ratio = _ratios(policy, before, moved, judging)
        advantage = _advantages(policy, proposing, judging, adaptation.baseline_ridge)
        gains.append(judging.sum_trajectories(((ratio - 1.0) * advantage).numpy()))
        ratios.append(ratio)
    values, weights = np.concatenate(gains), torch.cat(ratios)
    if not bool(np.isfinite(values).all()):
        return None
    # To first order both halves measure one product of two gradients, so they count as one.
    judges = count // 2
    half = student_quantile(judges - 1, COVERAGE) * float(values.std(ddof=1)) / math.sqrt(judges)
    gain = float(values.mean())
    sample = float(weights.sum().square() / weights.square().sum()) / len(weights)
    return CrossFittedGain(Estimate(gain, gain - half, gain + half), sample * count)


@torch.no_grad()
def _ratios(policy: Policy, before: Parameters, after: Parameters, batch: TrajectoryBatch) -> torch.Tensor:
    """[S] float64: π'(a|o) / π(a|o) at each step."""
    old, new = (
        policy.log_prob(policy.outputs(parameters, batch.observations), batch.actions) for parameters in (before, after)
    )
    return (new - old).double().exp()


def _norm(values: Sequence[torch.Tensor]) -> float:
    return math.sqrt(sum(float(value.double().square().sum()) for value in values))


def _advantages(policy: Policy, fitted: TrajectoryBatch, judged: TrajectoryBatch, ridge: float) -> torch.Tensor:
    """[S] float64: undiscounted returns less a baseline of other trajectories, in the units of the rewards."""
    horizon = policy.environment.horizon
    inputs = [baseline_inputs(batch, horizon, 1.0) for batch in (fitted, judged)]
    units = [float(batch.rewards.double().abs().max()) or 1.0 for batch in (fitted, judged)]
    targets = [
        unit * baseline_targets(batch, horizon=horizon, discount=1.0, ridge=ridge, inputs=each).targets
        for batch, each, unit in zip((fitted, judged), inputs, units, strict=True)
    ]
    return targets[1] - inputs[0].fit(targets[0], ridge) @ inputs[1].rows
