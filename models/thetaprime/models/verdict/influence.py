"""Which trajectories and time steps a step rests on."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from thetaprime.models.spec import AdaptationSpec
from thetaprime.models.trajectories import TrajectoryBatch
from thetaprime.models.verdict.leave_one_out import LeaveOneOut
from thetaprime.models.verdict.verdict import WeightyStep

WEIGHTY: Final = 8
"""Number of time steps that a verdict names."""


def trajectory_influences(
    left_out: LeaveOneOut,
    sizes: torch.Tensor,
    returns: torch.Tensor,
    adaptation: AdaptationSpec,
    target: float | None = None,
) -> tuple[float, ...]:
    """How far a step would lead elsewhere without each trajectory, in lengths of the step.

    The baseline, the normalization of the advantages and the distance to the target return are those without the
    trajectory. A gradient that a step divides by its norm is not divided here: the norm hides every trajectory that
    pulls against the others, and where the gradient has one direction, every trajectory. An influence of 1/(N − 1) is
    usual.

    Args:
        left_out: the gradients without each trajectory.
        sizes: [D] step sizes.
        returns: [N] returns of the trajectories.
        adaptation: of the meta-policy.
        target: return at which the step has the length 0, in the task's units; None if the returns do not set the
            length.

    Returns:
        [N]; zeros if there is no step, or a single trajectory.
    """
    plain = adaptation.model_copy(update={"normalize_gradient": False})
    whole, without = steps_without(left_out, sizes, returns, plain, target)
    count = len(without)
    length = float(whole.norm())
    if length == 0.0 or count == 1:
        return (0.0,) * count
    distances: list[float] = (np.sqrt(np.square((without - whole).numpy()).sum(1)) / length).tolist()
    return tuple(distances)


def steps_without(
    left_out: LeaveOneOut,
    sizes: torch.Tensor,
    returns: torch.Tensor,
    adaptation: AdaptationSpec,
    target: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The step [D] of a batch, and the step [N, D] without each trajectory; arguments as in `trajectory_influences`.

    A gap to the target return is in the unit of the returns. All steps have the unknown factor of the schedule.
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
            whole = whole * gap
            without = without * gaps.clamp_min(0.0)[:, None]
    return whole, without


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
