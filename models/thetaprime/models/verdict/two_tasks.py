"""Do the episodes of a batch come from two tasks, which ask for different steps?

Rewards of one task depend on observation and time in one way. So two linear models of the reward explain the episodes
of one task hardly better than one model does. For episodes of two tasks they do, where each episode belongs to the
model that explains it better: a mixture of linear regressions, fitted by alternating between models and memberships
(Späth 1979). Two tasks alone are no contradiction, as they may ask for the same step. The steps of the two parts differ
if their distance exceeds its jackknife standard error by far.

Two tasks whose rewards differ by the action alone, and not by what is observed, are not told apart.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from thetaprime.models.spec import AdaptationSpec
from thetaprime.models.verdict.influence import steps_without
from thetaprime.models.verdict.leave_one_out import GradientSums, LeaveOneOut, RewardSums

_Array = npt.NDArray[np.float64]

# Measured with 20 trajectories of five shipped meta-policies: two models leave at least this share for one task.
_LEFT: Final = 0.65
# A first split that leaves more than this does not come from two tasks.
_HOPELESS: Final = 0.97
_ITERATIONS: Final = 10
# One trajectory alone tells no noise.
_SMALLEST_PART: Final = 2
_ALIKE: Final = 0.9
_ERRORS: Final = 2.0


class RewardSplit(NamedTuple):
    """A partition of trajectories by the rewards.

    Attributes:
        members: [N] bool: whether a trajectory belongs to the second part.
        left: the part of the squared error of one model that two models leave.
    """

    members: npt.NDArray[np.bool_]
    left: float


def split_by_reward(sums: RewardSums, ridge: float) -> RewardSplit | None:
    """Finds two parts of a batch whose rewards follow two linear models.

    Args:
        sums: of the batch.
        ridge: of the regressions.

    Returns:
        The best split that was found; None if one model is as good.
    """
    xx, xr = sums.xx.numpy(), sums.xr.numpy()
    penalty = ridge * np.eye(xx.shape[1])
    gram = xx.sum(0) + penalty
    weights = np.linalg.solve(gram, xr.sum(0))
    errors = _errors(sums, weights)
    one = float(errors.sum())
    if len(xr) < 2 * _SMALLEST_PART or not one > 0.0:
        return None
    # What each trajectory would change in the one model, in the metric of its coefficients: the first principal
    # direction tells two models apart.
    pulls = xr - xx @ weights
    _, directions = np.linalg.eigh(pulls @ np.linalg.solve(gram, pulls.T))
    members: npt.NDArray[np.bool_] = directions[:, -1] > 0.0
    for iteration in range(_ITERATIONS):
        if min(members.sum(), (~members).sum()) < _SMALLEST_PART:
            return None
        both = np.stack([_errors(sums, _fit(xx, xr, penalty, part)) for part in (~members, members)])
        better, left = both[1] < both[0], float(both.min(0).sum()) / one
        if left > _HOPELESS:
            return None
        if iteration and bool((better == members).all()):
            break
        members = better
    return RewardSplit(members, left)


def _fit(xx: _Array, xr: _Array, penalty: _Array, part: npt.NDArray[np.bool_]) -> _Array:
    weights: _Array = np.linalg.solve(xx[part].sum(0) + penalty, xr[part].sum(0))
    return weights


def _errors(sums: RewardSums, weights: _Array) -> _Array:
    """[N]: the squared error of each trajectory's rewards."""
    xx, xr = sums.xx.numpy(), sums.xr.numpy()
    errors: _Array = sums.rr.numpy() - 2.0 * (xr @ weights) + (xx @ weights) @ weights
    return errors


def disagreement(
    sums: GradientSums,
    rewards: RewardSums,
    sizes: torch.Tensor,
    returns: torch.Tensor,
    adaptation: AdaptationSpec,
    target: float | None = None,
) -> float | None:
    """Tests whether two parts of a batch come from two tasks that ask for different steps.

    Each part has its own baseline, its own normalization, and its own distance to the target return.

    Args:
        sums: of the batch.
        rewards: of the batch.
        sizes: [D] step sizes.
        returns: [N].
        adaptation: ridge of the baseline, and whether the gradient is normalized.
        target: as in `trajectory_influences`.

    Returns:
        How much the two steps d and e agree, 2⟨d, e⟩ / (|d|² + |e|²): 1 for equal steps, −1 for opposite ones of one
        length. None for one task, and where the steps differ little or by noise.
    """
    split = split_by_reward(rewards, adaptation.baseline_ridge)
    if split is None or split.left > _LEFT:
        return None
    steps, variances = [], []
    for part in (~split.members, split.members):
        chosen = torch.from_numpy(np.flatnonzero(part))
        left_out: LeaveOneOut = sums.leave_one_out(chosen)
        step, without = steps_without(left_out, sizes, returns[chosen], adaptation, target)
        deviations = without - without.mean(0)
        steps.append(step)
        variances.append((len(without) - 1) / len(without) * deviations.T @ deviations)
    difference = steps[1] - steps[0]
    lengths = float(steps[0].square().sum() + steps[1].square().sum())
    distance = float(difference.norm())
    if distance == 0.0 or not np.isfinite(lengths):
        return None
    variance = float(difference @ sum(variances, torch.zeros_like(variances[0])) @ difference) / distance**2
    agreement = 2.0 * float(steps[0] @ steps[1]) / lengths
    return agreement if agreement < _ALIKE and distance > _ERRORS * max(variance, 0.0) ** 0.5 else None
