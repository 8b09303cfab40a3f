"""The units of a task's reward, from the rewards themselves.

Normalized advantages do not depend on the reward's scale a or offset b. The gap to a target return does. So a batch's
mean return is converted to the units of meta-training before it is compared with the target:

- **Scale.** What a linear baseline cannot explain of one step's reward has the deviation a·d, where d hardly depends on
  the task: every task starts with θ, which explores in the same way. A deviation that occurred in meta-training means
  that the reward has the units of meta-training, exactly. Otherwise a is the ratio to the median deviation. Noise, and
  rewards that come late, also enlarge the deviation. They do not enlarge its part that the moves explain, the signal.
  So a exceeds 1 only as far as the signal does.
- **Offset.** b is not visible in one batch in general: −|v − g| + b has the same values for many pairs of g and b. But
  a return above the target says nothing about the distance, and one below all of θ's returns in meta-training only that
  the distance is long.
"""

import math
import weakref
from typing import Final, NamedTuple

import torch

from thetaprime.models.baseline import Regressors, features
from thetaprime.models.spec import AdaptationSpec, RewardContract, RewardDeviation
from thetaprime.models.trajectories import TrajectoryBatch

# A deviation below this share of the largest reward is rounding: the rewards are constant.
_ROUNDING: Final = 1e-6
_ERRORS: Final = 3.0
# The measured tasks do not reach the ends of the range: what lies this share of its width below is still in it.
_MARGIN: Final = 0.2


def reward_deviation(batch: TrajectoryBatch, ridge: float, inputs: Regressors | None = None) -> float:
    """The root mean square of one step's reward around a linear baseline of observation and time.

    Args:
        batch: trajectories of one task.
        ridge: ridge of the baseline.
        inputs: from `baseline_inputs`, if already computed.

    Returns:
        In the reward's units; 0 if the rewards are constant. Equal calls share the result.
    """
    known = _DEVIATIONS.get(batch)
    if known is None or known[0] != ridge:
        known = _DEVIATIONS[batch] = ridge, _deviation(batch, ridge, inputs)
    return known[1]


# The length of a step and the steepness of its return ask for the same one.
_DEVIATIONS: "weakref.WeakKeyDictionary[TrajectoryBatch, tuple[float, float]]" = weakref.WeakKeyDictionary()


def _deviation(batch: TrajectoryBatch, ridge: float, inputs: Regressors | None) -> float:
    rewards = batch.rewards.double()
    largest = float(rewards.abs().max())
    if largest == 0.0:
        return 0.0
    # The ridge is relative to the features, so the unit of the targets does not matter; their square must not overflow.
    targets = rewards / largest
    deviation = float(_plain(batch, inputs).residuals(targets, ridge).square().mean().sqrt())
    return deviation * largest if deviation > _ROUNDING else 0.0


def reward_signal(batch: TrajectoryBatch, ridge: float, inputs: Regressors | None = None) -> float:
    """The part of `reward_deviation` that a step's action and the change of its observation explain.

    Noise in the reward hardly changes it. Rewards that come late hardly have any.

    Args:
        batch: trajectories of one task.
        ridge: ridge of the regressions.
        inputs: from `baseline_inputs`, if already computed.

    Returns:
        Root mean square, less what chance explains and less three standard errors, in the reward's units.
    """
    rewards = batch.rewards.double()
    largest = float(rewards.abs().max())
    # The last step of a trajectory has no next observation: it counts as zeros, which is faster than to leave it out.
    followed = torch.ones_like(rewards)
    followed[torch.tensor(batch.lengths).cumsum(0) - 1] = 0.0
    steps = len(rewards) - len(batch.lengths)
    if largest == 0.0 or not steps:
        return 0.0
    targets, rows = rewards / largest * followed, _plain(batch, inputs).rows
    observed = rows[: 2 * batch.observations.shape[1]]
    if batch.actions.is_floating_point():
        actions = batch.actions.double().T
        chosen = torch.cat([actions, actions**2])
    else:
        chosen = torch.nn.functional.one_hot(batch.actions).double().T
    moves = torch.cat([observed.diff(append=observed[:, -1:]), chosen])
    both = Regressors.of(torch.cat([rows, moves]) * followed)
    rest = float(both.residuals(targets, ridge).square().sum()) / steps
    without = float(both.first(len(rows)).residuals(targets, ridge).square().sum()) / steps
    count = len(moves)
    # Chance explains χ² with `count` degrees of freedom of the rest, over the number of steps.
    explained = without - rest - count / steps * rest
    error = math.sqrt((4.0 * max(explained, 0.0) * rest + 2.0 * count * rest**2 / steps) / steps)
    certain = explained - _ERRORS * error
    return math.sqrt(certain) * largest if certain > _ROUNDING**2 else 0.0


def _plain(batch: TrajectoryBatch, inputs: Regressors | None) -> Regressors:
    """The features of observation and time alone: the baseline's, without the return of a constant reward."""
    if inputs is None:
        return features(batch.observations, batch.time)
    return inputs.first(len(inputs.rows) - 1)


def reward_scale(deviation: float, known: RewardDeviation) -> float:
    """The scale of a task's reward relative to meta-training, from its deviation or from its signal.

    It is 1 for a deviation within the range of meta-training, and continuous (firm shrinkage; Gao & Bruce 1997).

    Args:
        deviation: from `reward_deviation` or `reward_signal`, above 0.
        known: the same in meta-training.
    """
    ratio = math.log(deviation / known.median)
    usual = math.log((known.high if ratio > 0 else known.low) / known.median)
    if abs(ratio) <= abs(usual):
        return 1.0
    if abs(ratio) < 2.0 * abs(usual):
        ratio = 2.0 * (ratio - usual)
    return math.exp(ratio)


class ReturnGap(NamedTuple):
    """The distance of a batch's mean return from the target return.

    Attributes:
        gap: R* − R_k in the units of meta-training, at least 0.
        measured: whether the return tells the distance. Otherwise `gap` is a typical one.
        scale: scale of the task's reward relative to meta-training, with which it was measured.
    """

    gap: float
    measured: bool
    scale: float = 1.0


def return_gap(
    batch: TrajectoryBatch,
    adaptation: AdaptationSpec,
    reward: RewardContract | None,
    step: int,
    scale: float | None = None,
    inputs: Regressors | None = None,
) -> ReturnGap:
    """Measures R* − R_k, the distance of a batch's mean return from the target return.

    Args:
        batch: trajectories of one task, collected with θ_k.
        adaptation: specifies the target return.
        reward: the reward in meta-training; None or without measurements: the rewards have its units.
        step: k, counted from 0.
        scale: the reward's scale, if it is known; otherwise the batch tells it as far as it can.
        inputs: from `baseline_inputs`, if already computed.

    Raises:
        ValueError: `adaptation` specifies no target return.
    """
    target, mean_return = adaptation.target_return, float(batch.returns.mean())
    if target is None:
        raise ValueError("adaptation.target_return: None; expected the target return")
    if reward is None or reward.return_range is None or not reward.deviation:
        scale = scale or 1.0
        return ReturnGap(max(target - mean_return / scale, 0.0), measured=True, scale=scale)
    lowest, highest = reward.return_range
    middle = (lowest + highest) / 2.0
    lowest -= _MARGIN * (highest - lowest)
    if scale is None:
        scale = batch_scale(batch, adaptation.baseline_ridge, reward, step, inputs)
    if scale > 0.0:
        mean_return /= scale
        if mean_return < lowest:
            return ReturnGap(target - lowest, measured=False, scale=scale)
        if mean_return <= target:
            return ReturnGap(target - mean_return, measured=True, scale=scale)
    return ReturnGap(target - middle, measured=False, scale=scale or 1.0)


def batch_scale(
    batch: TrajectoryBatch, ridge: float, reward: RewardContract, step: int, inputs: Regressors | None = None
) -> float:
    """The scale of a batch; 0 if its rewards are constant, and tell no scale."""
    deviation = reward_deviation(batch, ridge, inputs)
    if deviation == 0.0:
        return 0.0
    scale = reward_scale(deviation, reward.deviation[min(step, len(reward.deviation) - 1)])
    if scale <= 1.0 or not reward.signal:
        return scale
    signal = reward_signal(batch, ridge, inputs)
    if signal == 0.0:
        return 1.0
    return min(scale, max(1.0, reward_scale(signal, reward.signal[min(step, len(reward.signal) - 1)])))
