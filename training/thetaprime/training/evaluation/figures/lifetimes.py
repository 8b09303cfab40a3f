"""The figure of both ways to adapt: return by episode of experience, in a memory and by gradient."""

import numpy as np
from matplotlib.figure import Figure

from thetaprime.training.evaluation.figures.style import BLUE, GREEN, PURPLE, VERMILION, new_figure, styled
from thetaprime.training.evaluation.lifetimes import LifetimeEvaluation

_SIZE = (5.0, 3.6)


def lifetimes_figure(evaluation: LifetimeEvaluation) -> Figure:
    """Mean return by episode of experience, with its 95 % bootstrap interval over tasks.

    A memory has a return in each episode. A policy that adapts by gradient is one policy through each round, so its
    curve has steps.
    """
    with styled():
        figure = new_figure(*_SIZE)
        axes = figure.add_subplot(label="lifetimes")
        count = len(evaluation.returns)
        episodes = np.arange(1, count + 1)
        low, high = evaluation.return_interval()
        axes.fill_between(episodes, low, high, color=PURPLE, alpha=0.25, linewidth=0)
        marker = "o" if count <= 20 else None
        axes.plot(episodes, evaluation.returns.mean(1), color=PURPLE, marker=marker, label="in memory (RL²)")
        if evaluation.gradient is not None:
            beside = evaluation.gradient
            axes.step(
                episodes,
                beside.by_episode(count).mean(1),
                where="mid",
                color=BLUE,
                label=f"by gradient, rounds of {beside.trajectories}",
            )
        for name, color, text in (
            ("pretrained", VERMILION, "pretrained"),
            ("oracle", GREEN, "oracle, observes the task"),
        ):
            if name in evaluation.comparisons:
                level = float(evaluation.comparisons[name].mean())
                axes.axhline(level, color=color, linestyle="--", label=text)
        axes.set_xlabel("episode of experience on the task")
        axes.set_ylabel("undiscounted return")
        axes.set_title(
            f"{evaluation.meta_policy}: {len(evaluation.tasks)} held-out tasks\nmean and its 95 % interval", loc="left"
        )
        axes.grid(axis="y", alpha=0.25)
        if count <= 20:
            axes.set_xticks(episodes)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        return figure
