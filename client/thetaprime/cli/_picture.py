"""The demo's picture: paths before and after adaptation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from thetaprime.cli._rollouts import Rollouts

_REACH: Final = 0.8  # the square that is shown at least, in the environment's units
_PATH_COLOUR: Final = "#3b6ea8"
_GOAL_COLOUR: Final = "#c8553d"


def draw_paths(
    path: Path, goal: Sequence[float], before: Rollouts, after: Rollouts, rounds: int, oracle_return: float
) -> None:
    """Draws the paths of θ and of θ′ side by side.

    Args:
        path: where to write the PNG.
        goal: (x, y).
        before: episodes with θ.
        after: episodes with θ′.
        rounds: how many steps lie between.
        oracle_return: mean return of the best that can be done.
    """
    figure = Figure(figsize=(10, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(1, 2, sharex=True, sharey=True)
    titles = ("θ: before adaptation", f"θ′: after {rounds} {'round' if rounds == 1 else 'rounds'}")
    for panel, title, rollouts in zip(panels, titles, (before, after), strict=True):
        for walked in rollouts.paths:
            panel.plot(walked[:, 0], walked[:, 1], color=_PATH_COLOUR, alpha=0.35, linewidth=1)
        panel.plot(0, 0, "o", color="black", markersize=5, label="start")
        panel.plot(*goal, "*", color=_GOAL_COLOUR, markersize=16, label="goal")
        panel.set_title(f"{title}\nmean return {rollouts.mean:.1f} (oracle {oracle_return:.1f})")
        panel.set_aspect("equal")
        panel.grid(alpha=0.2)
    reach = _reach([*before.paths, *after.paths], goal)
    panels[0].set_xlim(-reach, reach)
    panels[0].set_ylim(-reach, reach)
    panels[1].legend(loc="lower right")
    figure.savefig(path, dpi=110)


def _reach(paths: Sequence[npt.NDArray[Any]], goal: Sequence[float]) -> float:
    """Half the side of the square to show: nearly every step, so that one that strayed does not shrink the rest."""
    steps = np.abs(np.concatenate([*paths, np.asarray([goal])]))
    return max(_REACH, float(np.quantile(steps, 0.98)) * 1.1)
