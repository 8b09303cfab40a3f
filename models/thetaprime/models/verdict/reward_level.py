"""How far θ is from the goal where the level of its return does not tell: the shape of the rewards does, in part.

A constant b in each step's reward gives a task the return of another one, and leaves its shape: the nearer the goal is
to where θ moves, the more the reward bends there, and the more of it is left unexplained by a reward that is linear in
the motion. Each held-out task of meta-training is one explanation of a batch. Its return tells b, and the batch without
b must leave as much unexplained as that task does. The distances of the best explanations are those that the session
has to reckon with. Where a reward is linear wherever θ moves, they are many.
"""

import weakref
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from thetaprime.models.artifact import MetaPolicy
from thetaprime.models.parameters import Parameters
from thetaprime.models.trajectories import TrajectoryBatch
from thetaprime.models.verdict.calibration import StageCalibration, load_calibration
from thetaprime.models.verdict.familiarity import conformal_p_values, stage_level
from thetaprime.models.verdict.task_features import (
    RewardShape,
    batch_features,
    describe_features,
    features_with,
    reward_shape,
    transitions,
)

Array = npt.NDArray[np.float64]

# P-value up to which a return is not that of a task of meta-training whose rewards have this shape,
_REFUTED: Final = 0.01
# and that from which on a batch without an offset may come from one.
_PLAUSIBLE: Final = 0.05
# This share of the held-out tasks explains a batch.
_SHARE: Final = 0.05
# Where more is left unexplained than in all of them, by this much on a log scale, noise hides the shape.
_NOISIER: Final = 0.5
# No gap is smaller than this share of the largest.
_LEAST: Final = 0.01
_TINY: Final = 1e-300
# Gaps from here on are the farthest of meta-training.
_FAR: Final = 0.9


class RewardLevel(NamedTuple):
    """The distance to the target return by the shape of the rewards, in the units of meta-training.

    Attributes:
        least: the smallest gap R* − R among the tasks that explain the batch.
        most: the largest one.
        mean_return: their median return: what θ's would be without an offset.
        is_far: whether they are the farthest of meta-training, so that the goal may lie farther still.
    """

    least: float
    most: float
    mean_return: float
    is_far: bool

    def cautious_gap(self, stated: float) -> float:
        """The gap to step by: the harmonic mean of the ends, which leaves the smallest part of the way at worst.

        It is less than twice the smallest gap. So where the return falls with the distance from the goal, none of the
        tasks loses.

        Args:
            stated: the gap by θ's mean return, taken as it is.
        """
        most = max(self.most, stated) if self.is_far else self.most
        return 2.0 * self.least * most / (self.least + most)


def reward_level(
    meta_policy: MetaPolicy, batch: TrajectoryBatch, gradient: Parameters, scale: float, *, believed: bool
) -> RewardLevel | None:
    """Finds the distance to the target return by the shape of the rewards.

    Args:
        meta_policy: θ with its target return and its held-out tasks.
        batch: the first episodes of θ.
        gradient: ∇L(θ) of the inner loss on the batch.
        scale: of the task's reward, relative to meta-training.
        believed: whether the mean return is one of meta-training's. Then it stands, unless the tasks that had such a
            return leave less or more unexplained (p ≤ .01), and the batch is plausible without an offset (p ≥ .05).

    Returns:
        None where the mean return stands, or where the artifact holds no calibration.
    """
    calibration, target = load_calibration(meta_policy), meta_policy.manifest.adaptation.target_return
    if calibration is None or target is None:
        return None
    stage = calibration.theta
    names = [each.name for each in describe_features(gradient, stage.lens)]
    known = stage.tasks.features.double().numpy()
    returns, unexplained = known[:, names.index("return")], known[:, names.index("reward_residual")]
    level = stage_level(stage, batch)
    used = batch.first(int(stage.tasks.trajectories[level]))
    stated = float(used.returns.mean()) / scale
    offsets = (stated - returns) / (len(used.rewards) / len(used.lengths))
    moves = transitions(meta_policy.policy, stage.lens, used)
    shape = reward_shape(stage.lens, moves, scale, np.append(offsets, 0.0))
    if believed and _p_value(stage, returns, unexplained, stated, float(shape.unexplained[-1])) > _REFUTED:
        return None
    more = shape.unexplained[:-1] - unexplained
    nearest = np.argsort(np.abs(more), kind="stable")[: _count(returns)]
    if believed:
        features = batch_features(meta_policy.policy, stage.lens, used, gradient)
        chosen = RewardShape(shape.coordinates[nearest], shape.unexplained[nearest])
        without = features_with(features, scale, offsets[nearest], chosen)
        if conformal_p_values(stage, without, gradient, level).max() < _PLAUSIBLE:
            return None
    if more[nearest].min() > _NOISIER:
        nearest = np.arange(len(returns))
    gaps = target - returns
    gaps = np.maximum(gaps, _LEAST * gaps.max())
    found = gaps[nearest]
    is_far = bool(found.max() >= np.quantile(gaps, _FAR))
    return RewardLevel(float(found.min()), float(found.max()), float(np.median(returns[nearest])), is_far)


def _count(returns: Array) -> int:
    return max(round(_SHARE * len(returns)), 1)


def _p_value(stage: StageCalibration, returns: Array, unexplained: Array, mean_return: float, found: float) -> float:
    """The conformal p-value of what a batch leaves unexplained, given its return."""
    if stage not in _SCORES:
        rest = [np.arange(len(returns)) != index for index in range(len(returns))]
        _SCORES[stage] = np.array(
            [
                _score(level, value, returns[others], unexplained[others])
                for level, value, others in zip(returns, unexplained, rest, strict=True)
            ]
        )
    scores = _SCORES[stage]
    return float(1 + (scores >= _score(mean_return, found, returns, unexplained)).sum()) / (len(scores) + 1)


def _score(mean_return: float, found: float, returns: Array, unexplained: Array) -> float:
    """The distance to the median of the tasks with the nearest returns, as a multiple of their mean distance."""
    near = unexplained[np.argsort(np.abs(returns - mean_return), kind="stable")[: _count(returns)]]
    median = float(np.median(near))
    return abs(found - median) / max(float(np.abs(near - median).mean()), _TINY)


_SCORES: "weakref.WeakKeyDictionary[StageCalibration, Array]" = weakref.WeakKeyDictionary()
