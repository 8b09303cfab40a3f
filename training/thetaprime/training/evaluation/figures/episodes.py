"""Records episodes for figures, from the ``info`` of an environment.

An environment reports, at each reset and step, by Gymnasium's conventions:

| key | meaning |
|---|---|
| ``x_position``, ``y_position`` | the place; its path is drawn |
| ``x_velocity`` | forward velocity in m/s; drawn over time |
| ``goal_position`` | (x, y) of the goal |
| ``goal_velocity`` | forward velocity of the goal, in m/s |
| ``goal_direction`` | 1 or -1: the goal is this direction along x |

The ground contacts of a MuJoCo robot's limbs are read from the simulator.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import gymnasium
import numpy as np
import numpy.typing as npt

from thetaprime.training.evaluation.figures.contacts import Contacts

Floats = npt.NDArray[np.float64]
_GOALS: Final = ("goal_position", "goal_velocity", "goal_direction")


@dataclasses.dataclass(frozen=True, eq=False)
class Episode:
    """One episode of H steps.

    Attributes:
        rewards: [H].
        seconds: duration of one step; None if the environment has no time.
        position: [H + 1, 2] x and y; None if the environment does not report them.
        velocity: [H] forward velocity in m/s; None if the environment does not report it.
        contacts: by limb, [H] whether it touches the ground; empty if unknown.
        goal: by the keys of the table above.
    """

    rewards: Floats
    seconds: float | None
    position: Floats | None
    velocity: Floats | None
    contacts: Mapping[str, npt.NDArray[np.bool_]]
    goal: Mapping[str, Any]

    @property
    def undiscounted_return(self) -> float:
        """Σ r."""
        return float(self.rewards.sum())

    @property
    def drawable(self) -> bool:
        """Whether there is a path or a velocity to draw."""
        return self.position is not None or self.velocity is not None


class EpisodeRecorder(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Records every episode of an environment.

    An episode ends with the next reset or with `take`, because the player may cut it short.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._seconds = step_seconds(env)
        self._limbs = Contacts.of(env)
        self._episodes: list[Episode] = []
        self._infos: list[Mapping[str, Any]] = []
        self._rewards: list[float] = []
        self._touching: list[npt.NDArray[np.bool_]] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts a new episode."""
        self._end_episode()
        observation, info = super().reset(seed=seed, options=options)
        self._infos = [info]
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Records a step."""
        observation, reward, terminated, truncated, info = super().step(action)
        self._rewards.append(float(reward))
        self._infos.append(info)
        if self._limbs is not None:
            self._touching.append(self._limbs.touching())
        return observation, reward, terminated, truncated, info

    def take(self) -> list[Episode]:
        """Returns the episodes since the last call, each of at least one step."""
        self._end_episode()
        taken, self._episodes = self._episodes, []
        return taken

    def _end_episode(self) -> None:
        if self._rewards:
            infos = self._infos
            path = _column(infos[1:], ("x_position", "y_position"))
            if path is not None:
                first = _column(infos[:1], ("x_position", "y_position"))
                path = np.concatenate([path[:1] if first is None else first, path])
            velocity = _column(infos[1:], ("x_velocity",))
            limbs = (
                {} if self._limbs is None else dict(zip(self._limbs.names, np.stack(self._touching, 1), strict=True))
            )
            self._episodes.append(
                Episode(
                    rewards=np.asarray(self._rewards),
                    seconds=self._seconds,
                    position=path,
                    velocity=None if velocity is None else velocity[:, 0],
                    contacts=limbs,
                    goal={key: infos[-1][key] for key in _GOALS if key in infos[-1]},
                )
            )
        self._infos, self._rewards, self._touching = [], [], []


def play(
    act: Callable[[Any], Any], env: gymnasium.Env[Any, Any], seed: int, horizon: int
) -> Iterator[tuple[float, bool, dict[str, Any]]]:
    """Plays one episode; yields at its start and after each step.

    Args:
        act: observation -> action.
        env: is reset and not closed.
        seed: of the reset.
        horizon: the largest number of steps; 0 for no limit.

    Yields:
        The reward (0 at the start), whether the episode terminated, and the environment's ``info``.
    """
    observation, info = env.reset(seed=seed)
    yield 0.0, False, info
    step, over = 0, False
    while not over:
        action = np.asarray(act(observation)).astype(env.action_space.dtype)
        observation, reward, terminated, truncated, info = env.step(action)
        step += 1
        over = bool(terminated or truncated) or step == horizon
        yield float(reward), bool(terminated), info


def _column(infos: list[Mapping[str, Any]], keys: tuple[str, ...]) -> Floats | None:
    """[len(infos), len(keys)]; None if a key is missing."""
    if not all(key in info for info in infos for key in keys):
        return None
    return np.array([[float(info[key]) for key in keys] for info in infos])


def step_seconds(env: gymnasium.Env[Any, Any]) -> float | None:
    """The duration of a simulated robot's step; None for other environments."""
    seconds = getattr(env.unwrapped, "dt", None)
    return float(seconds) if isinstance(seconds, (int, float)) and seconds > 0 else None
