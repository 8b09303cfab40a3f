"""2D navigation (Finn et al. 2017, section 5.3): walk to a goal that only the reward shows.

A point starts at the origin and moves by at most 0.1 along each axis at each step. The reward is minus its
distance to the goal after the move. The episode terminates within 0.01 of the goal on both axes, and is truncated
after 100 steps. The paper's text squares the distance; its authors' code does not, and neither does this environment.
"""

from collections.abc import Sequence
from typing import Any, Final

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from thetaprime.training.registration import POINT_NAVIGATION_HORIZON

MAX_SPEED: Final = 0.1
GOAL_RANGE: Final = 0.5
_ARRIVED: Final = 0.01

Floats = npt.NDArray[np.float64]


def _observation_space() -> "Box[np.float32]":
    farthest = (POINT_NAVIGATION_HORIZON + 1) * MAX_SPEED
    return Box(-farthest, farthest, (2,), np.float32)


def _action_space() -> "Box[np.float32]":
    return Box(-MAX_SPEED, MAX_SPEED, (2,), np.float32)


def advance(position: Floats, action: npt.ArrayLike, goal: Floats) -> tuple[Floats, Any, Any]:
    """Moves one point or many by one step of the dynamics.

    Args:
        position: [..., 2].
        action: [..., 2] velocity, clipped to ±0.1.
        goal: [..., 2].

    Returns:
        The new position [..., 2], the reward [...], and whether the goal is reached [...].
    """
    moved = position + np.clip(np.asarray(action, np.float64), -MAX_SPEED, MAX_SPEED)
    offset = moved - goal
    return moved, -np.sqrt(np.square(offset).sum(-1)), (np.abs(offset) < _ARRIVED).all(-1)


class PointNavigation(gymnasium.Env[npt.NDArray[np.float32], npt.NDArray[np.float32]]):
    """One point. The observation is its position, the action its velocity in ±0.1.

    Args:
        goal: (x, y), within ±0.5 in the paper.
        render_mode: ``rgb_array`` for pictures of the path and the goal; None.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  # as Gymnasium declares it

    def __init__(self, goal: Sequence[float] = (0.5, 0.5), render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode: {render_mode!r}; expected 'rgb_array' or None")
        self.render_mode = render_mode
        self.observation_space = _observation_space()
        self.action_space = _action_space()
        self._goal = _goals(goal, (2,))
        self._position = np.zeros(2)
        self._path = [self._position]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Returns the point to the origin."""
        super().reset(seed=seed)
        self._position = np.zeros(2)
        self._path = [self._position]
        return self._position.astype(np.float32), self._info()

    def step(
        self, action: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Moves the point."""
        self._position, reward, arrived = advance(self._position, action, self._goal)
        if self.render_mode is not None:
            self._path.append(self._position)
        return self._position.astype(np.float32), float(reward), bool(arrived), False, self._info()

    def render(self) -> npt.NDArray[np.uint8] | None:
        """A picture [400, 400, 3] of the path, the point and the goal, from above; None without a render mode."""
        if self.render_mode is None:
            return None
        from thetaprime.training.tasks.environments.point_picture import draw_point

        return draw_point(np.asarray(self._path), self._goal)

    def _info(self) -> dict[str, Any]:
        # For spectators: the policy observes the position and never the goal.
        x, y = self._position.tolist()
        return {"x_position": x, "y_position": y, "goal_position": tuple(self._goal.tolist())}


class PointNavigationVector(VectorEnv[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[Any]]):
    """Many points, each with a goal, moved by one numpy operation, with next-step autoreset.

    Args:
        goal: (x, y) for all points, or [num_envs, 2].
        num_envs: B, the number of points.
        max_episode_steps: episodes are truncated after so many steps.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        goal: npt.ArrayLike = (0.5, 0.5),
        num_envs: int = 1,
        max_episode_steps: int = POINT_NAVIGATION_HORIZON,
    ) -> None:
        self.num_envs = num_envs
        self.single_observation_space = _observation_space()
        self.single_action_space = _action_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._goal = _goals(goal, (num_envs, 2))
        self._max_episode_steps = max_episode_steps
        self._position = np.zeros((num_envs, 2))
        self._elapsed = np.zeros(num_envs, np.int64)
        self._ended = np.zeros(num_envs, np.bool_)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Returns every point to the origin."""
        self._position = np.zeros((self.num_envs, 2))
        self._elapsed = np.zeros(self.num_envs, np.int64)
        self._ended = np.zeros(self.num_envs, np.bool_)
        return self._position.astype(np.float32), {}

    def step(
        self, actions: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], dict[str, Any]]:
        """Moves every point; returns it to the origin instead if its episode has ended."""
        moved, rewards, arrived = advance(self._position, actions, self._goal)
        again = self._ended
        self._position = np.where(again[:, None], 0.0, moved)
        self._elapsed = np.where(again, 0, self._elapsed + 1)
        terminated = arrived & ~again
        truncated = self._elapsed >= self._max_episode_steps
        self._ended = terminated | truncated
        return self._position.astype(np.float32), np.where(again, 0.0, rewards), terminated, truncated, {}


def _goals(goal: npt.ArrayLike, shape: tuple[int, ...]) -> Floats:
    goals = np.asarray(goal, np.float64)
    if goals.shape not in {(2,), shape} or not np.isfinite(goals).all():
        raise ValueError(f"goal: {goal!r}; expected two finite numbers (x, y)")
    return np.broadcast_to(goals, shape).copy()
