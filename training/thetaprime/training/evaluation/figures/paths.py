"""The panels of paths in the plane."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from thetaprime.training.evaluation.figures.style import BLUE, GRAY, VERMILION, WIDTH, new_figure, styled

Path = npt.NDArray[Any]
_STRAYED: Final = 0.02  # fraction of positions that may lie outside the panel, so that outliers do not shrink the rest
_MARGIN: Final = 0.08
_HEIGHT: Final = 4.2  # inches, of two squares and their titles


def paths_figure(panels: Sequence[tuple[str, Sequence[Path]]], goal: Sequence[float]) -> Figure:
    """Draws the paths of several policies side by side.

    Args:
        panels: of each policy, a title and paths [H + 1, 2].
        goal: (x, y).
    """
    with styled():
        figure = new_figure(WIDTH, _HEIGHT)
        every: Any = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)
        for axes, (title, paths) in zip(every[0], panels, strict=True):
            draw_paths(axes, paths, goal)
            axes.set_title(title, loc="left")
            axes.set_xlabel("x")
        every[0, 0].set_ylabel("y")
        show_square(every[0, 0], [path for _, paths in panels for path in paths], goal)
        handles, labels = every[0, -1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        return figure


def draw_paths(
    axes: Axes, paths: Sequence[Path], goal: Sequence[float] | None, *, deterministic: Path | None = None
) -> None:
    """Draws paths from above, with the start and the goal.

    Args:
        axes: an empty panel.
        paths: each [H + 1, 2], with exploration.
        goal: (x, y), or None.
        deterministic: [H + 1, 2] without exploration, drawn on top.
    """
    for index, path in enumerate(paths):
        axes.plot(
            path[:, 0], path[:, 1], color=GRAY if deterministic is not None else BLUE, alpha=0.35, linewidth=0.7,
            label=("with exploration" if deterministic is not None else "path") if index == 0 else None, gid="path",
        )  # fmt: skip
    if deterministic is not None:
        axes.plot(
            deterministic[:, 0], deterministic[:, 1], color=BLUE, linewidth=1.8, label="deterministic",
            gid="deterministic-path",
        )  # fmt: skip
    start = (paths[0] if len(paths) else deterministic)[0]  # type: ignore[index]  # one of the two is given
    axes.plot(*start, "o", color="black", markersize=4, linestyle="none", label="start")
    if goal is not None:
        axes.plot(
            *goal, "*", color=VERMILION, markersize=11, markeredgecolor="white", markeredgewidth=0.6,
            linestyle="none", label="goal", zorder=4,
        )  # fmt: skip
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.grid(alpha=0.25)


def show_square(axes: Axes, paths: Sequence[Path], goal: Sequence[float] | None) -> None:
    """Sets square limits that show nearly all of the paths, the starts and the goal."""
    steps = np.concatenate(paths)
    low, high = np.quantile(steps, [_STRAYED / 2, 1.0 - _STRAYED / 2], axis=0)
    marks = np.array([*(path[0] for path in paths), *([] if goal is None else [goal])])
    low, high = np.minimum(low, marks.min(0)), np.maximum(high, marks.max(0))
    center, reach = (low + high) / 2, max(float((high - low).max()) / 2, 1e-6) * (1.0 + 2.0 * _MARGIN)
    axes.set_xlim(center[0] - reach, center[0] + reach)
    axes.set_ylim(center[1] - reach, center[1] + reach)
