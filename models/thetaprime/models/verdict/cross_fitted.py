"""The gain of a short step, from the episodes of the round alone.

A step that fits the noise of its episodes looks better on them than it is. So each half of the trajectories proposes
a step of the same length, and the other half judges it, with a baseline that the first half fitted (cross-fitting;
Chernozhukov et al. 2018, section 3). The judge is the surrogate of conservative policy iteration (Kakade & Langford
2002; Schulman et al. 2015, Eq. 3) on undiscounted returns,

    gain = mean over trajectories of Σ_t (π'(a_t|o_t) / π(a_t|o_t) − 1) A_t.

It leaves out that π' meets other states than π. Longer steps than `MOST_KL` lead where that counts, so they get no
number.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch

from thetaprime.models.baseline import Regressors
from thetaprime.models.head import LOG_STD
from thetaprime.models.inner_loop import InnerStep, part_direction
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


@dataclasses.dataclass(frozen=True, eq=False)
class _Half:
    """Half of the trajectories.

    Attributes:
        batch: the trajectories.
        steps: [S of all] bool: which steps are theirs.
        outputs: of θ_k at their observations.
        inputs: of the baseline of undiscounted returns.
        returns: [S] what it is fitted to.
    """

    batch: TrajectoryBatch
    steps: torch.Tensor
    outputs: tuple[torch.Tensor, ...]
    inputs: Regressors
    returns: torch.Tensor

    @classmethod
    def of(
        cls,
        policy: Policy,
        before: Parameters,
        batch: TrajectoryBatch,
        step: InnerStep,
        trajectories: Sequence[int],
        ridge: float,
    ) -> "_Half":
        half, horizon = batch.select(trajectories), policy.environment.horizon
        if step.forward is None:
            raise ValueError("the step kept its graph; a gain needs a step with create_graph=False")
        steps, (head, *others) = batch.steps_of(trajectories), step.forward.values
        inputs = baseline_inputs(half, horizon, 1.0)
        unit = float(half.rewards.double().abs().max()) or 1.0
        problem = baseline_targets(half, horizon=horizon, discount=1.0, ridge=ridge, inputs=inputs)
        return cls(half, steps, (head[steps], *others), inputs, unit * problem.targets)

    @torch.no_grad()
    def ratios(self, policy: Policy, after: Parameters) -> torch.Tensor:
        """[S] float64: π'(a|o) / π_θk(a|o) at each step."""
        old, new = (
            policy.log_prob(outputs, self.batch.actions)
            for outputs in (self.outputs, policy.outputs(after, self.batch.observations))
        )
        return (new - old).double().exp()

    def advantages(self, fitted: "_Half", ridge: float) -> torch.Tensor:
        """[S] float64: undiscounted returns less the baseline of the other half, in the units of the rewards."""
        return self.returns - fitted.inputs.fit(fitted.returns, ridge) @ self.inputs.rows


def cross_fitted_gain(
    policy: Policy,
    before: Parameters,
    after: Parameters,
    batch: TrajectoryBatch,
    step: InnerStep,
    adaptation: AdaptationSpec,
    step_sizes: Parameters | None,
) -> CrossFittedGain | None:
    """Estimates the gain of a short step along the gradient.

    Args:
        policy: the network.
        before: θ_k, which collected the batch.
        after: θ_{k+1}, at most `MOST_KL` away.
        batch: N trajectories.
        step: the inner loop's step on the batch, whose direction is that of the step, taken without a graph.
        adaptation: the inner loop, for the directions of the halves.
        step_sizes: as in `adapt_step`.

    Returns:
        The return of θ_{k+1} less that of θ_k; None for fewer than eight trajectories, or without a direction.
    """
    count, direction = len(batch.lengths), step.direction
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
    ridge = adaptation.baseline_ridge
    halves = [_Half.of(policy, before, batch, step, range(start, count, 2), ridge) for start in (0, 1)]
    gains, ratios = [], []
    for proposing, judging in (halves, reversed(halves)):
        proposed = part_direction(policy, before, step, proposing.batch, proposing.steps, adaptation, step_sizes)
        length = _norm([proposed[name] for name in moving])
        if length < _SMALLEST:
            return None
        moved = {
            name: value - wanted / length * proposed.get(name, 0.0) + quiet.get(name, 0.0)
            for name, value in before.items()
        }
        ratio = judging.ratios(policy, moved)
        advantage = judging.advantages(proposing, ridge)
        gains.append(judging.batch.sum_trajectories(((ratio - 1.0) * advantage).numpy()))
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


def _norm(values: Sequence[torch.Tensor]) -> float:
    return math.sqrt(sum(float(value.double().square().sum()) for value in values))
