"""The figure of one adaptation: return by round, and the policy's behavior before and after."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from thetaprime.training.evaluation.figures.episodes import Episode
from thetaprime.training.evaluation.figures.gait import draw_contacts, draw_velocity
from thetaprime.training.evaluation.figures.paths import draw_paths, show_square
from thetaprime.training.evaluation.figures.returns import PolicyReturns, Step, draw_returns, draw_steps
from thetaprime.training.evaluation.figures.style import WIDTH, new_figure, number, policy_name, styled

_RETURNS_HEIGHT = 2.3
_GAIT_HEIGHT = 2.2
_LIMB_HEIGHT = 0.17
_PATHS_HEIGHT = 3.7


@dataclasses.dataclass(frozen=True, eq=False)
class Behavior:
    """The behavior of one policy.

    Attributes:
        round: k of θ_k.
        explored: episodes with stochastic actions.
        deterministic: an episode with deterministic actions.
    """

    round: int
    explored: Sequence[Episode]
    deterministic: Episode


def adaptation_figure(
    title: str, policies: Sequence[PolicyReturns], steps: Sequence[Step], behaviors: Sequence[Behavior] = ()
) -> Figure:
    """Draws one adaptation. Panels are labeled returns, kl, gradient, and velocity, contacts or paths.

    Args:
        title: of the figure.
        policies: θ and every θ′, at least one.
        steps: the steps between the policies, at least one.
        behaviors: of the policies to compare, side by side; empty if the environment reports nothing to draw.
    """
    with styled():
        heights = [_RETURNS_HEIGHT]
        draw = _draw_gaits if behaviors and behaviors[0].deterministic.velocity is not None else _draw_paths
        if behaviors:
            limbs = len(behaviors[0].deterministic.contacts)
            heights.append(_PATHS_HEIGHT if draw is _draw_paths else _GAIT_HEIGHT + _LIMB_HEIGHT * limbs)
        figure = new_figure(WIDTH, sum(heights))
        parts: Any = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights, hspace=0.04)
        _draw_numbers(parts[0, 0], policies, steps)
        if behaviors:
            draw(parts[1, 0], behaviors)
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        return figure


def _draw_numbers(part: SubFigure, policies: Sequence[PolicyReturns], steps: Sequence[Step]) -> None:
    grid = part.add_gridspec(2, 2, width_ratios=(2.6, 1.0))
    returns = part.add_subplot(grid[:, 0], label="returns")
    draw_returns(returns, policies)
    returns.set_title("return by round", loc="left")
    kl = part.add_subplot(grid[0, 1], label="kl")
    kl.set_title("size of each step", loc="left")
    draw_steps(kl, part.add_subplot(grid[1, 1], label="gradient"), steps)


def _draw_gaits(part: SubFigure, behaviors: Sequence[Behavior]) -> None:
    limbs = len(behaviors[0].deterministic.contacts)
    rows = 2 if limbs else 1
    ratios = (_GAIT_HEIGHT, _LIMB_HEIGHT * limbs)[:rows]
    panels: Any = part.subplots(
        rows, len(behaviors), sharex=True, sharey="row", squeeze=False, gridspec_kw={"height_ratios": ratios}
    )
    for column, behavior in zip(panels.T, behaviors, strict=True):
        column[0].set_label("velocity")
        draw_velocity(column[0], behavior.explored, behavior.deterministic)
        _title(column[0], behavior)
        if limbs:
            column[1].set_label("contacts")
            draw_contacts(column[1], behavior.deterministic)
        column[-1].set_xlabel("time (s)" if behavior.deterministic.seconds else "steps")
    panels[0, 0].set_ylabel("forward\nvelocity (m/s)")
    if limbs:
        panels[1, 0].set_ylabel("on the\nground", rotation=0, ha="right", va="center")
    panels[0, 0].set_xlim(left=0.0)
    part.align_ylabels(panels[:, 0])
    _legend(part, panels[0, -1])


def _draw_paths(part: SubFigure, behaviors: Sequence[Behavior]) -> None:
    panels: Any = part.subplots(1, len(behaviors), sharex=True, sharey=True, squeeze=False)
    every = []
    goal = behaviors[0].deterministic.goal.get("goal_position")
    for axes, behavior in zip(panels[0], behaviors, strict=True):
        axes.set_label("paths")
        paths = [each.position for each in behavior.explored if each.position is not None]
        draw_paths(axes, paths, goal, deterministic=behavior.deterministic.position)
        every += paths
        _title(axes, behavior)
        axes.set_xlabel("x")
    panels[0, 0].set_ylabel("y")
    show_square(panels[0, 0], every, goal)
    _legend(part, panels[0, -1])


def _title(axes: Axes, behavior: Behavior) -> None:
    when = "before" if behavior.round == 0 else f"after {behavior.round} round{'s'[: behavior.round != 1]}"
    achieved = number(behavior.deterministic.undiscounted_return, ".4g")
    axes.set_title(f"{policy_name(behavior.round)}, {when}\ndeterministic return {achieved}", loc="left")


def _legend(part: SubFigure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    part.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
