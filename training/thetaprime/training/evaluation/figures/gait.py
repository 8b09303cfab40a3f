"""The panels of a robot's gait: velocity over time, and ground contacts of its limbs."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from thetaprime.training.evaluation.figures.episodes import Episode
from thetaprime.training.evaluation.figures.style import BLUE, GRAY, VERMILION

_DIRECTIONS: Final = {1.0: "goal: above 0, as fast as possible", -1.0: "goal: below 0, as fast as possible"}
_BAND: Final = (0.1, 0.9)
_SMALL: Final = 6.5


def draw_velocity(axes: Axes, explored: Sequence[Episode], deterministic: Episode) -> None:
    """Draws the forward velocity over time, and the goal.

    Args:
        axes: an empty panel.
        explored: episodes with exploration: the band of 80 % of them is drawn.
        deterministic: an episode without exploration.
    """
    columns = [each.velocity for each in explored if each.velocity is not None]
    if columns:
        # At each time, over the episodes that have not ended.
        longest = max(map(len, columns))
        lasting = np.full((len(columns), longest), np.nan)
        for row, column in zip(lasting, columns, strict=True):
            row[: len(column)] = column
        low, high = np.nanquantile(lasting, _BAND, axis=0)
        axes.fill_between(
            _times(explored[0], longest), low, high, color=GRAY, alpha=0.35, linewidth=0,
            label="with exploration, 80 % of episodes", gid="band",
        )  # fmt: skip
    assert deterministic.velocity is not None  # noqa: S101  # the caller has checked
    axes.plot(
        _times(deterministic, len(deterministic.velocity)), deterministic.velocity, color=BLUE, linewidth=1.1,
        label="deterministic", gid="velocity",
    )  # fmt: skip
    _draw_goal(axes, deterministic.goal)
    axes.grid(axis="y", alpha=0.25)


def _draw_goal(axes: Axes, goal: Mapping[str, Any]) -> None:
    if "goal_velocity" in goal:
        axes.axhline(float(goal["goal_velocity"]), color=VERMILION, linestyle="--", linewidth=1.2, label="goal")
    elif goal.get("goal_direction") in _DIRECTIONS:
        label = _DIRECTIONS[float(goal["goal_direction"])]
        axes.axhline(0.0, color=VERMILION, linestyle="--", linewidth=1.2, label=label)


def draw_contacts(axes: Axes, episode: Episode) -> None:
    """Draws a bar for each ground contact, in a row for each limb."""
    touching = list(episode.contacts.values())
    edges = np.concatenate([[0.0], _times(episode, len(episode.rewards))])
    for row, column in enumerate(touching):
        bars = [(edges[start], edges[end] - edges[start]) for start, end in stretches(column)]
        axes.broken_barh(bars, (row - 0.36, 0.72), facecolors=BLUE, linewidth=0, gid=f"contacts-{row}")
    axes.set_ylim(len(touching) - 0.4, -0.6)
    axes.set_yticks(range(len(touching)), list(episode.contacts))
    axes.tick_params(axis="y", length=0, labelsize=_SMALL)


def stretches(column: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The stretches of true values in [H]: pairs of the first index and the index after the last."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], column, [False]]).astype(np.int8)))
    return list(zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True))


def _times(episode: Episode, count: int) -> npt.NDArray[np.floating[Any]]:
    """The end time of each step, in seconds; in steps if the environment has no time."""
    return (np.arange(count) + 1.0) * (episode.seconds or 1.0)
