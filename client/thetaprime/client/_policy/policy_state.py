"""The state of a policy with a memory, between two actions."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from thetaprime.client._errors import InvalidInputError

LARGEST: Final = float(np.finfo(np.float32).max)
"""The largest finite float32."""


@dataclasses.dataclass(frozen=True, eq=False)
class PolicyState:
    """What a policy with a memory remembers of B robots between two actions.

    `AdaptedPolicy.predict` takes and returns it. Its methods return another state, and change nothing.

    Attributes:
        tensors: the state by the name of its input, float32; the axis of the robots as in the policy's file.
        action: [B, A] float32 or [B] int64: the last action of each robot, in the environment's units.
        reward: [B] float32: the reward of that action; NaN until `observe`.
        done: [B] bool: whether that action ended an episode.
        fresh: [B] bool: whether a lifetime begins with the next action. The other fields of such a robot do not count.
        policy_id: `AdaptedPolicy.policy_id` of the policy.
        meta_policy: ``name@version`` of its meta-policy.
    """

    tensors: Mapping[str, npt.NDArray[np.float32]]
    action: npt.NDArray[Any]
    reward: npt.NDArray[np.float32]
    done: npt.NDArray[np.bool_]
    fresh: npt.NDArray[np.bool_]
    policy_id: str
    meta_policy: str

    def __len__(self) -> int:
        """B."""
        return len(self.fresh)

    def __repr__(self) -> str:
        return f"PolicyState({len(self)} robots, {self.meta_policy}, policy_id={self.policy_id[:12]}…)"

    def observe(
        self,
        reward: npt.ArrayLike,
        terminated: npt.ArrayLike = False,
        truncated: npt.ArrayLike = False,
        *,
        action: npt.ArrayLike | None = None,
    ) -> "PolicyState":
        """Returns the state with the outcome of the last action; arguments as of `AdaptedPolicy.observe`.

        Raises:
            InvalidInputError: an argument has another shape or dtype, or is not finite.
        """
        count = len(self)
        taken = self.action if action is None else read_actions(action, self.action)
        return dataclasses.replace(
            self,
            action=taken,
            reward=read_rewards(reward, count),
            done=read_flags(terminated, count, "terminated") | read_flags(truncated, count, "truncated"),
        )

    def reset(self, where: npt.ArrayLike | None = None) -> "PolicyState":
        """Returns the state with a new lifetime for some robots; `where` as of `AdaptedPolicy.reset`.

        Raises:
            InvalidInputError: `where` has another shape or dtype.
        """
        return dataclasses.replace(self, fresh=self.fresh | read_where(where, len(self)))


def merge_states(
    state: PolicyState, other: PolicyState, rows: npt.NDArray[np.bool_], axes: Mapping[str, int]
) -> PolicyState:
    """The state, with the rows of another one for some robots.

    Args:
        state: of B robots.
        other: of B robots, of the same policy.
        rows: [B]: the robots whose rows are those of `other`.
        axes: the axis of the robots in each tensor.
    """

    def merged(mine: npt.NDArray[Any], theirs: npt.NDArray[Any], axis: int = 0) -> npt.NDArray[Any]:
        shape = [1] * mine.ndim
        shape[axis] = -1
        return np.where(rows.reshape(shape), theirs, mine)

    return dataclasses.replace(
        state,
        tensors={name: merged(mine, other.tensors[name], axes[name]) for name, mine in state.tensors.items()},
        action=merged(state.action, other.action),
        reward=merged(state.reward, other.reward),
        done=merged(state.done, other.done),
        fresh=merged(state.fresh, other.fresh),
    )


def read_rewards(reward: npt.ArrayLike, count: int) -> npt.NDArray[np.float32]:
    """[count] rewards of one step; one number is that of a single robot."""
    array = _of_robots(reward, count, "reward", "fiu", "numbers")
    with np.errstate(over="ignore"):
        rewards: npt.NDArray[np.float32] = array.astype(np.float32)
    if b"\0" in np.isfinite(rewards).tobytes():
        index = int(np.argmin(np.isfinite(rewards)))
        raise InvalidInputError.at(f"reward[{index}]", f"{array[index]}; expected a finite float32")
    return rewards


def read_flags(flags: npt.ArrayLike, count: int, field: str) -> npt.NDArray[np.bool_]:
    """[count] flags; one flag is that of a single robot, or of all robots if it is false."""
    if flags is False or (flags is True and count == 1):
        return np.full(count, flags, np.bool_)
    return _of_robots(flags, count, field, "b", "booleans")


def read_where(where: npt.ArrayLike | None, count: int) -> npt.NDArray[np.bool_]:
    """[count]: the robots that a mask or a list of indices names; None for all."""
    if where is None:
        return np.ones(count, np.bool_)
    array = np.asarray(where)
    if array.dtype == np.bool_ and array.shape == (count,):
        return array
    # An empty list has the dtype of floats.
    if array.ndim <= 1 and (array.dtype.kind in "iu" or not array.size):
        indices = array.astype(np.int64).reshape(-1)
        if not indices.size or (indices.min() >= 0 and indices.max() < count):
            mask = np.zeros(count, np.bool_)
            mask[indices] = True
            return mask
    raise InvalidInputError.at(
        "where",
        f"{array.dtype} {list(array.shape)}; expected a mask of shape [{count}], or indices from 0 to {count - 1}",
    )


def read_actions(action: npt.ArrayLike, like: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The actions that robots took, in the environment's units: [B, A] float32 or [B] int64, as `like`."""
    array = np.asarray(action)
    if array.shape != like.shape and (len(like) != 1 or array.shape != like.shape[1:]):
        raise InvalidInputError.at("action", f"shape {list(array.shape)}; expected {list(like.shape)}")
    if array.dtype.kind not in ("iu" if like.dtype.kind == "i" else "fiu"):
        raise InvalidInputError.at("action", f"dtype {array.dtype}; expected {like.dtype}")
    with np.errstate(over="ignore"):
        actions = array.astype(like.dtype).reshape(like.shape)
    if not np.isfinite(actions).all():
        raise InvalidInputError.at("action", "not finite; expected finite numbers")
    return actions


def _of_robots(values: npt.ArrayLike, count: int, field: str, kinds: str, expected: str) -> npt.NDArray[Any]:
    array = np.asarray(values)
    if array.dtype.kind not in kinds:
        raise InvalidInputError.at(field, f"dtype {array.dtype}; expected {expected}")
    if count == 1 and array.shape == ():
        array = array.reshape(1)
    if array.shape != (count,):
        robots = "1 robot" if count == 1 else f"{count} robots"
        raise InvalidInputError.at(field, f"shape {list(array.shape)}; expected [{count}] for {robots}")
    return array
