"""Finds trajectories that repeat the noise of another one: one episode sent twice, or collectors with one seed."""

from typing import Final

import numpy as np
import torch

from thetaprime.models.behavior.evidence import Array
from thetaprime.models.policy import Policy
from thetaprime.models.trajectories import TrajectoryBatch

NOISE_NUMBERS: Final = 8
"""How many numbers of a trajectory's noise are compared."""
# Two independent numbers are this close with probability 0.0113, and eight of them with 2.6e-16: in a round of a
# thousand trajectories any two with probability 1.3e-10. Rounding moves a number by a tenth of it.
_TOLERANCE: Final = 0.02


def beginning_noise(policy: Policy, outputs: tuple[torch.Tensor, ...], batch: TrajectoryBatch) -> Array:
    """Returns the first standardized actions of each trajectory.

    Args:
        policy: the network.
        outputs: as from `Policy.outputs`.
        batch: the trajectories.

    Returns:
        [N, 8] float16; NaN for a trajectory that is shorter, and for discrete actions, whose noise cannot be known.
    """
    noise = np.full((len(batch.lengths), NOISE_NUMBERS), np.nan, np.float16)
    if not policy.continuous:
        return noise
    size = policy.environment.action.size
    steps = -(-NOISE_NUMBERS // size)
    long = np.array(batch.lengths) >= steps
    first = np.cumsum((0, *batch.lengths[:-1]))[long]
    rows = (first[:, None] + np.arange(steps)).ravel()
    z = (batch.actions.numpy()[rows] - outputs[0].numpy()[rows]) / np.exp(outputs[1].numpy())
    noise[long] = z.reshape(len(first), steps * size)[:, :NOISE_NUMBERS]
    return noise


def find_repeated_noise(noise: Array, before: Array) -> tuple[int, int] | None:
    """Returns a trajectory that repeats the noise of an earlier one, and that one.

    Args:
        noise: [N, 8], from `BehaviorMeasurement.noise`.
        before: [M, 8], of the trajectories before them.

    Returns:
        Two indices: into `noise`, and into `before` followed by `noise`; None if all trajectories differ.
    """
    # NaN equals nothing. The first number excludes nearly all pairs.
    every = np.concatenate([before, noise]).astype(np.float32)
    later, earlier = np.nonzero(np.abs(noise[:, :1].astype(np.float32) - every[:, 0]) < _TOLERANCE)
    ordered = earlier < len(before) + later
    later, earlier = later[ordered], earlier[ordered]
    equal = np.flatnonzero((np.abs(every[len(before) + later] - every[earlier]) < _TOLERANCE).all(axis=1))
    return (int(later[equal[0]]), int(earlier[equal[0]])) if len(equal) else None
