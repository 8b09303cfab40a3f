"""Which trajectories and time steps a step rests on, and whether parts of the batch contradict each other."""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from thetaprime.models.baseline import Regressors
from thetaprime.models.spec import AdaptationSpec
from thetaprime.models.trajectories import TrajectoryBatch
from thetaprime.models.verdict.leave_one_out import GradientSums, LeaveOneOut
from thetaprime.models.verdict.verdict import WeightyStep

WEIGHTY: Final = 8
"""Number of time steps that a verdict names."""
# Rewards of one task split into parts whose means explain at most .87 of the variance between trajectories (measured on
# three meta-policies with 20 trajectories each); those of two tasks, at least .98.
_SPLIT: Final = 0.9
_OPPOSED: Final = -3.0
# One trajectory alone tells no noise.
_SMALLEST_PART: Final = 2


def trajectory_influences(
    left_out: LeaveOneOut,
    sizes: torch.Tensor,
    returns: torch.Tensor,
    adaptation: AdaptationSpec,
    target: float | None = None,
) -> tuple[float, ...]:
    """How far a step would lead elsewhere without each trajectory, in lengths of the step.

    The baseline, the normalization of the advantages, that of the gradient and the distance to the target return are
    those without the trajectory. An influence of 1/(N − 1) is usual for plain gradients; near 0 for normalized ones.

    Args:
        left_out: the gradients without each trajectory.
        sizes: [D] step sizes.
        returns: [N] returns of the trajectories.
        adaptation: whether the gradient is normalized.
        target: return at which the step has the length 0, in the task's units; None if the returns do not set the
            length.

    Returns:
        [N]; zeros if there is no step, or a single trajectory.
    """
    whole, without = left_out.whole * sizes, left_out.without * sizes
    count = len(without)
    if adaptation.normalize_gradient:
        whole = whole / left_out.whole.norm().clamp_min(1e-300)
        without = without / left_out.without.norm(dim=1, keepdim=True).clamp_min(1e-300)
    if target is not None and count > 1:
        gap = target - float(returns.mean())
        gaps = target - (returns.sum() - returns) / (count - 1)
        if gap > 0.0:
            without = without * (gaps / gap).clamp_min(0.0)[:, None]
    length = float(whole.norm())
    if length == 0.0 or count == 1:
        return (0.0,) * count
    return tuple(((without - whole).norm(dim=1) / length).tolist())


def weighty_steps(batch: TrajectoryBatch, derivatives: npt.NDArray[Any]) -> tuple[WeightyStep, ...]:
    """The time steps that weighed most in a step, for it or against it.

    Args:
        batch: the trajectories of the step.
        derivatives: [S] from `step_derivatives`.

    Returns:
        At most eight, the weightiest first; none if the gradient is zero.
    """
    whole = float(derivatives.sum())
    if not np.isfinite(whole) or whole <= 0.0:
        return ()
    starts = np.cumsum((0, *batch.lengths))
    sizes = np.abs(derivatives)
    most = np.sort(np.argpartition(-sizes, WEIGHTY)[:WEIGHTY]) if len(sizes) > WEIGHTY else np.arange(len(sizes))
    chosen = most[np.argsort(-sizes[most], kind="stable")]
    trajectories = np.searchsorted(starts, chosen, side="right") - 1
    return tuple(
        WeightyStep(int(trajectory), int(step - starts[trajectory]), float(derivatives[step]) / whole)
        for trajectory, step in zip(trajectories, chosen, strict=True)
        if derivatives[step] != 0.0
    )


class Split(NamedTuple):
    """A partition of numbers into low and high ones.

    Attributes:
        high: [N] bool.
        explained: share of the variance that the means of the two parts explain.
    """

    high: torch.Tensor
    explained: float


def split_in_two(values: torch.Tensor) -> Split | None:
    """The best partition of numbers [N] in two, each of at least two numbers; None if there is none."""
    order = torch.argsort(values)
    ordered = values[order] - values.mean()
    total = float(ordered.square().sum())
    if total == 0.0 or len(values) < 2 * _SMALLEST_PART:
        return None
    sizes = torch.arange(_SMALLEST_PART, len(values) - _SMALLEST_PART + 1)
    below = ordered.cumsum(0)[sizes - 1]
    explained = (below.square() / sizes + below.square() / (len(values) - sizes)) / total
    best = int(explained.argmax())
    high = torch.zeros(len(values), dtype=torch.bool)
    high[order[int(sizes[best]) :]] = True
    return Split(high, float(explained[best]))


def disagreement(
    batch: TrajectoryBatch, adaptation: AdaptationSpec, inputs: Regressors, sums: GradientSums
) -> float | None:
    """Tests whether two parts of a batch ask for opposite steps, as episodes of two tasks do.

    The rewards of one task depend on what was observed. Where observation and time leave the rewards of some
    trajectories higher than those of the others, and the two parts hardly overlap, each part's gradient is computed
    with its own baseline. The gradients are opposed if their inner product lies three standard errors below 0.

    Args:
        batch: N trajectories.
        adaptation: ridge of the baseline.
        inputs: from `baseline_inputs`.
        sums: of the batch.

    Returns:
        The cosine between the two gradients if they are opposed, otherwise None.
    """
    unit = float(batch.rewards.abs().max())
    if unit == 0.0:
        return None
    plain = inputs.first(len(inputs.rows) - 1)
    residuals = plain.residuals(batch.rewards.double() / unit, adaptation.baseline_ridge)
    lengths = torch.tensor(batch.lengths, dtype=torch.float64)
    split = split_in_two(torch.from_numpy(batch.sum_trajectories(residuals.numpy())) / lengths)
    if split is None or split.explained < _SPLIT:
        return None
    low, high = (sums.leave_one_out(part.nonzero()[:, 0]) for part in (~split.high, split.high))
    norms = float(low.whole.norm() * high.whole.norm())
    if norms == 0.0:
        return None
    product = float(low.whole @ high.whole)
    noise = [_covariance(each.pseudo_values) / len(each.without) for each in (low, high)]
    variance = low.whole @ noise[1] @ low.whole + high.whole @ noise[0] @ high.whole + (noise[0] @ noise[1]).trace()
    return product / norms if product < _OPPOSED * float(variance.clamp_min(0.0).sqrt()) else None


def _covariance(values: torch.Tensor) -> torch.Tensor:
    deviations = values - values.mean(0)
    return deviations.T @ deviations / (len(values) - 1)
