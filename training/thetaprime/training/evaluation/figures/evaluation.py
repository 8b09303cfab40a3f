"""Figures of evaluations and of meta-training."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thetaprime.training.evaluation.figures.style import (
    BLUE,
    GRAY,
    GREEN,
    PURPLE,
    VERMILION,
    new_figure,
    png_bytes,
    styled,
)
from thetaprime.training.evaluation.scores import Evaluation
from thetaprime.training.history import History

_STYLE: Final = {
    "maml": (BLUE, "o", "meta-policy"),
    "rl2": (PURPLE, "o", "memory"),
    "pretrained": (VERMILION, "s", "pretrained"),
    "oracle": (GREEN, "D", "oracle"),
    "random": (GRAY, "^", "random initialization"),
}
_PARTS: Final = {"maml": ("before adapting", "after adapting"), "rl2": ("first episode", "last episode")}
"""The two returns that a history keeps, by the methods where they differ."""
_SIZE: Final = (5.0, 3.6)
_SPREAD: Final = 0.16  # half-width of one method's points, in gradient steps
_GAP: Final = 0.24  # between the methods' points at one gradient step


def curves_figure(evaluation: Evaluation) -> Figure:
    """Mean return over gradient steps, with 95 % bootstrap intervals over tasks, and a mark for every task."""
    with styled():
        figure = new_figure(*_SIZE)
        axes = figure.add_subplot(label="curves")
        for place, (method, curve) in enumerate(evaluation.returns.items()):
            color, marker, label = _STYLE[method]
            steps = np.arange(len(curve))
            low, high = evaluation.return_interval(method)
            _draw_tasks(axes, evaluation, method, (place - (len(evaluation.returns) - 1) / 2) * _GAP)
            axes.fill_between(steps, low, high, color=color, alpha=0.25, linewidth=0, zorder=2)
            axes.plot(steps, curve.mean(1), color=color, marker=marker, label=label, zorder=3)
        if evaluation.oracle is not None:
            level = float(evaluation.oracle.mean())
            axes.axhline(level, color=GREEN, linestyle="--", label="oracle, observes the task", zorder=2)
        axes.set_xticks(range(max((len(curve) for curve in evaluation.returns.values()), default=1)))
        axes.set_xlabel(f"gradient steps ({evaluation.trajectories} trajectories each)")
        axes.set_ylabel("undiscounted return")
        axes.set_title(
            f"{evaluation.meta_policy}: {len(evaluation.tasks)} held-out tasks\n"
            "mean and its 95 % interval; a small mark for each task",
            loc="left",
        )
        axes.grid(axis="y", alpha=0.25)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        return figure


def _draw_tasks(axes: Axes, evaluation: Evaluation, method: str, offset: float) -> None:
    """Draws each task's return at each gradient step, always at the same offset."""
    color, marker, _ = _STYLE[method]
    curve = evaluation.returns[method]
    count = curve.shape[1]
    places = offset + np.linspace(-_SPREAD, _SPREAD, count) / 2 if count > 1 else np.full(1, offset)
    x = np.arange(len(curve))[:, None] + places[None]
    axes.plot(
        x.ravel(), curve.ravel(), linestyle="none", marker=marker, markersize=2.0, markeredgewidth=0,
        color=color, alpha=0.35, zorder=1, gid=f"tasks-{method}",
    )  # fmt: skip


def curves_png(evaluation: Evaluation) -> bytes:
    """`curves_figure` as PNG bytes."""
    return png_bytes(curves_figure(evaluation))


def learning_png(title: str, histories: Mapping[str, History | None]) -> bytes:
    """The return of every run over environment steps, as PNG bytes.

    Args:
        title: of the figure.
        histories: by method; None for a run without logs.
    """
    with styled():
        figure = new_figure(*_SIZE)
        axes = figure.add_subplot()
        for method, history in histories.items():
            if history is None:
                continue
            color, _, label = _STYLE[method]
            steps = history.environment_steps / 1e6
            if method in _PARTS:
                before, after = _PARTS[method]
                axes.plot(steps, history.pre_return, color=color, alpha=0.45, linewidth=1, label=f"{label}, {before}")
                label += f", {after}"
            axes.plot(steps, history.post_return, color=color, linewidth=1.4, label=label)
        axes.set_xlabel("environment steps, millions")
        axes.set_ylabel("undiscounted return")
        axes.set_title(f"{title}: training", loc="left")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
        return png_bytes(figure)
