"""One episode as numpy arrays."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from thetaprime.wire.contract import ActionKind, EnvironmentContract
from thetaprime.wire.errors import WireError


@dataclasses.dataclass(frozen=True, eq=False)
class Trajectory:
    """One whole episode of H steps, collected with one policy.

    Attributes:
        observations: [H, *observation_shape] float; the observation before each action, raw.
        actions: box: [H, A] float, as sampled from the policy (before scaling and clipping).
            discrete: [H] integer, counted from 0.
        rewards: [H] float; the reward after each action.
        terminated: the episode ended in a terminal state.
        truncated: the episode was cut short from outside.
        final_observation: [*observation_shape] float; the observation after the last action.
        policy_id: id of the behavior policy.
    """

    observations: npt.NDArray[Any]
    actions: npt.NDArray[Any]
    rewards: npt.NDArray[Any]
    terminated: bool
    truncated: bool
    final_observation: npt.NDArray[Any]
    policy_id: str

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def total_reward(self) -> float:
        """The undiscounted return."""
        return float(np.sum(self.rewards, dtype=np.float64))


def validate(trajectory: Trajectory, contract: EnvironmentContract, field: str = "trajectory") -> None:
    """Checks a trajectory against the contract of its environment.

    Args:
        trajectory: the trajectory.
        contract: the contract.
        field: path of the trajectory, for the error.

    Raises:
        WireError: a wrong shape or dtype, no steps, more steps than the horizon, a number that is not
            finite, a discrete action out of range, or an episode that neither terminated nor was truncated.
    """
    steps = len(trajectory.rewards) if trajectory.rewards.ndim == 1 else -1
    if steps == 0:
        raise WireError(f"{field}.rewards", "no steps; a trajectory has at least one")
    if steps > contract.horizon > 0:
        raise WireError(f"{field}.rewards", f"{steps} steps; the horizon is {contract.horizon}")
    _floats(trajectory.rewards, (max(steps, 0),), f"{field}.rewards")
    _floats(trajectory.observations, (steps, *contract.observation_shape), f"{field}.observations")
    _floats(trajectory.final_observation, contract.observation_shape, f"{field}.final_observation")
    if contract.action_kind is ActionKind.BOX:
        _floats(trajectory.actions, (steps, contract.action_size), f"{field}.actions")
    else:
        _choices(trajectory.actions, steps, contract.action_size, f"{field}.actions")
    if not (trajectory.terminated or trajectory.truncated):
        raise WireError(f"{field}.truncated", "neither terminated nor truncated is set; upload whole episodes only")


def _floats(array: npt.NDArray[Any], shape: tuple[int, ...], field: str) -> None:
    if array.dtype.kind != "f":
        raise WireError(field, f"dtype {array.dtype}; expected float32 or float64")
    _shape(array, shape, field)
    if array.dtype == np.float32:
        finite = np.isfinite(array)
    else:
        # The policy computes in float32: a float64 that overflows there is as bad as infinity.
        with np.errstate(over="ignore"):
            finite = np.isfinite(array.astype(np.float32))
    if not finite.all():
        index = tuple(int(i) for i in np.argwhere(~finite)[0])
        path = "".join(f"[{i}]" for i in index)
        raise WireError(f"{field}{path}", f"{array[index]} is not a finite float32")


def _choices(array: npt.NDArray[Any], steps: int, count: int, field: str) -> None:
    if array.dtype.kind != "i":
        raise WireError(field, f"dtype {array.dtype}; expected int32 or int64")
    _shape(array, (steps,), field)
    outside = (array < 0) | (array >= count)
    if outside.any():
        step = int(np.argmax(outside))
        raise WireError(f"{field}[{step}]", f"action {array[step]}; expected 0..{count - 1}, counted from 0")


def _shape(array: npt.NDArray[Any], shape: tuple[int, ...], field: str) -> None:
    if array.shape != shape:
        raise WireError(field, f"shape {list(array.shape)}; expected {list(shape)}")
