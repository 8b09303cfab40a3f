"""The figure of one step: how much each piece of each trajectory pushed the policy."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from thetaprime.training.evaluation.figures.paths import show_square
from thetaprime.training.evaluation.figures.style import BLUE, GRAY, VERMILION, WIDTH, new_figure, number, styled

# Single time steps are noise: the sum over a piece shows where a trajectory pushed.
_PIECES: Final = 40
_STRONGEST: Final = 0.99  # quantile of the pieces that has the full color
_SMALL: Final = 6.5
_MOST_LABELS: Final = 40
_PATHS_HEIGHT: Final = 3.7
_FAINTEST: Final = 0.12
_FOR_AND_AGAINST: Final[Colormap] = LinearSegmentedColormap.from_list("for and against", [VERMILION, "#e6e6e6", BLUE])
_LABEL: Final = "push of a piece\n(part of the step; below 0: against it)"


@dataclasses.dataclass(frozen=True, eq=False)
class PushedTrajectory:
    """One trajectory of a round.

    Attributes:
        label: its name, as the words call it.
        rewards: [H].
        pushes: [H]: the part of each time step in the step; below 0, it pushed against the step.
        path: [H + 1, 2] positions in the plane; None if there is no plane.
    """

    label: str
    rewards: npt.NDArray[Any]
    pushes: npt.NDArray[Any]
    path: npt.NDArray[Any] | None = None


@dataclasses.dataclass(frozen=True)
class Mark:
    """A time step to mark.

    Attributes:
        row: number of the trajectory.
        step: number of the time step.
    """

    row: int
    step: int


def pushes_figure(title: str, trajectories: Sequence[PushedTrajectory], marks: Sequence[Mark] = ()) -> Figure:
    """Draws paths in the plane where every trajectory has one, and otherwise rewards and pushes over time.

    Args:
        title: of the figure.
        trajectories: at least one, in the order of the rows.
        marks: time steps to mark, the weightiest first; they are numbered from 1.
    """
    with styled():
        if all(each.path is not None for each in trajectories):
            figure = _paths_figure(trajectories, marks)
        else:
            figure = _times_figure(trajectories, marks)
        figure.suptitle(title, x=0.01, ha="left", fontsize=9.5)
        return figure


def pieces(values: npt.NDArray[Any], length: int) -> npt.NDArray[np.float64]:
    """The sums over consecutive pieces of a trajectory, [ceil(H / length)].

    Args:
        values: [H].
        length: steps of a piece; the last piece may have fewer.
    """
    sums: npt.NDArray[np.float64] = np.add.reduceat(values.astype(np.float64), np.arange(0, len(values), length))
    return sums


def _paths_figure(trajectories: Sequence[PushedTrajectory], marks: Sequence[Mark]) -> Figure:
    figure = new_figure(WIDTH, _PATHS_HEIGHT)
    plane, shares = figure.subplots(1, 2, width_ratios=[1.7, 1.0])
    length = _piece_length(trajectories)
    norm = _norm([pieces(each.pushes, length) for each in trajectories])
    paths = [np.asarray(each.path, np.float64) for each in trajectories]
    sums = np.concatenate([pieces(each.pushes, length) for each in trajectories])
    lines = [path[start : start + length + 1] for path in paths for start in range(0, len(path) - 1, length)]
    # The strongest pieces on top, and the weak ones faint: most of a path hardly pushes.
    order = np.argsort(np.abs(sums), kind="stable")
    strength = np.clip(np.abs(sums[order]) / norm.vmax, 0.0, 1.0)
    drawn = LineCollection(
        [lines[index] for index in order], array=sums[order], cmap=_FOR_AND_AGAINST, norm=norm, linewidths=1.2,
        alpha=_FAINTEST + (1.0 - _FAINTEST) * strength, gid="paths",
    )  # fmt: skip
    plane.add_collection(drawn)
    plane.plot(*paths[0][0], "o", color="black", markersize=4, label="start")
    for index, mark in enumerate(marks, 1):
        _circle(plane, index, *paths[mark.row][mark.step])
    plane.set_aspect("equal")
    show_square(plane, paths, None)
    plane.set(xlabel="observation 0", ylabel="observation 1")
    plane.set_title("paths; circles: the weightiest time steps", loc="left")
    colors = ScalarMappable(norm, _FOR_AND_AGAINST)
    figure.colorbar(colors, ax=plane, label=_LABEL, shrink=0.8)
    _draw_shares(shares, trajectories)
    return figure


def _times_figure(trajectories: Sequence[PushedTrajectory], marks: Sequence[Mark]) -> Figure:
    count = len(trajectories)
    figure = new_figure(WIDTH, 1.7 + 2 * max(0.8, min(0.11 * count, 2.6)))
    panels: Any = figure.subplots(2, 2, width_ratios=[3.2, 1.0], sharey=True)
    (rewards, shares), (pushed, returns) = panels
    longest = max(len(each.rewards) for each in trajectories)
    extent = (0.0, float(longest), count - 0.5, -0.5)
    every = np.concatenate([each.rewards for each in trajectories]).astype(np.float64)
    low, high = np.quantile(every, [1.0 - _STRONGEST, _STRONGEST])
    image = rewards.imshow(
        _rows([each.rewards.astype(np.float64) for each in trajectories], longest), vmin=low, vmax=high,
        aspect="auto", interpolation="nearest", cmap="cividis", extent=extent, gid="rewards",
    )  # fmt: skip
    figure.colorbar(image, ax=rewards, label="reward", pad=0.01)
    length = _piece_length(trajectories)
    sums = [pieces(each.pushes, length) for each in trajectories]
    width = -(-longest // length)
    image = pushed.imshow(
        _rows(sums, width), aspect="auto", interpolation="nearest", cmap=_FOR_AND_AGAINST, norm=_norm(sums),
        extent=(0.0, float(width * length), count - 0.5, -0.5), gid="pushes",
    )  # fmt: skip
    figure.colorbar(image, ax=pushed, label=_LABEL, pad=0.01)
    for index, mark in enumerate(marks, 1):
        for axes in (rewards, pushed):
            _circle(axes, index, mark.step + 0.5, mark.row)
    rewards.set_title("reward", loc="left")
    pushed.set_title(f"push, in pieces of {length} steps; circles: the weightiest time steps", loc="left")
    for axes in (rewards, pushed):
        axes.set_xlim(0.0, longest)
        axes.set_facecolor("white")
        _label_rows(axes, trajectories)
    pushed.set_xlabel("time step")
    _draw_shares(shares, trajectories, labels=False)
    returns.barh(range(count), [each.rewards.sum() for each in trajectories], color=GRAY, gid="returns")
    returns.set_title("return", loc="left")
    returns.tick_params(axis="y", length=0)
    returns.grid(axis="x", alpha=0.25)
    return figure


def _draw_shares(axes: Axes, trajectories: Sequence[PushedTrajectory], *, labels: bool = True) -> None:
    shares = [float(each.pushes.sum()) for each in trajectories]
    axes.barh(range(len(shares)), shares, color=[BLUE if each >= 0 else VERMILION for each in shares], gid="shares")
    axes.axvline(0.0, color="black", linewidth=0.6)
    axes.set_title("share in the step", loc="left")
    axes.set_ylim(len(shares) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.25)
    axes.tick_params(axis="y", length=0)
    if labels:
        texts = [f"{each.label}: {number(float(each.rewards.sum()), '.3g')}" for each in trajectories]
        _label_rows(axes, trajectories, texts)
        axes.set_ylabel("trajectory: return", fontsize=_SMALL)


def _label_rows(axes: Axes, trajectories: Sequence[PushedTrajectory], texts: Sequence[str] = ()) -> None:
    every = -(-len(trajectories) // _MOST_LABELS)
    rows = range(0, len(trajectories), every)
    labels = list(texts) or [each.label for each in trajectories]
    axes.set_yticks(rows, [labels[row] for row in rows])
    axes.tick_params(axis="y", length=0, labelsize=_SMALL)


def _circle(axes: Axes, index: int, x: float, y: float) -> None:
    axes.plot(x, y, "o", markersize=7.5, markerfacecolor="white", markeredgecolor="black", alpha=0.85, gid="mark")
    axes.text(x, y, str(index), ha="center", va="center_baseline", fontsize=5.5, zorder=5)


def _rows(rows: Sequence[npt.NDArray[np.float64]], width: int) -> npt.NDArray[np.float64]:
    """[N, width]: the rows, with NaN after the end of each."""
    filled = np.full((len(rows), width), np.nan)
    for row, values in zip(filled, rows, strict=True):
        row[: len(values)] = values
    return filled


def _piece_length(trajectories: Sequence[PushedTrajectory]) -> int:
    return -(-max(len(each.pushes) for each in trajectories) // _PIECES)


def _norm(sums: Sequence[npt.NDArray[np.float64]]) -> Normalize:
    strongest = float(np.quantile(np.abs(np.concatenate(sums)), _STRONGEST)) or 1.0
    return Normalize(-strongest, strongest)
