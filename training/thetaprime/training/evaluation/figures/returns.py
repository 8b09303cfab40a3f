"""The panels of an adaptation's numbers: return by round, and the size of each step."""

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from thetaprime.training.evaluation.figures.style import BLUE, GRAY, policy_name

_SPREAD: Final = 0.16  # half-width of a policy's dots
_ASIDE: Final = 0.24  # offset of the mean and deviation from the dots
_MOST_NAMES: Final = 12  # with more policies, the axis shows numbers


@dataclasses.dataclass(frozen=True, eq=False)
class PolicyReturns:
    """The returns of one policy of an adaptation.

    Attributes:
        round: k of θ_k.
        mean: undiscounted return over its trajectories.
        std: standard deviation over its trajectories.
        returns: [N] of each trajectory; empty if only the mean and the deviation are known.
    """

    round: int
    mean: float
    std: float
    returns: npt.NDArray[np.float64] = dataclasses.field(default_factory=lambda: np.empty(0))


@dataclasses.dataclass(frozen=True)
class Step:
    """The size of one step.

    Attributes:
        round: k; the step led from θ_k to θ_{k+1}.
        kl_divergence: KL(π_k ‖ π_{k+1}) in nats.
        gradient_norm: ‖∇L‖₂ at θ_k.
    """

    round: int
    kl_divergence: float
    gradient_norm: float


def draw_returns(axes: Axes, policies: Sequence[PolicyReturns]) -> None:
    """Draws the returns of θ and of every θ′: a dot for each trajectory, and mean ± standard deviation."""
    x = np.array([each.round for each in policies], np.float64)
    rng = np.random.default_rng(0)  # places the dots; a fixed seed gives the same figure each time
    for policy in policies:
        if len(policy.returns):
            places = policy.round + rng.uniform(-_SPREAD, _SPREAD, len(policy.returns))
            axes.plot(
                places, policy.returns, linestyle="none", marker="o", markersize=3, markeredgewidth=0,
                color=GRAY, alpha=0.55, gid=f"trajectories-{policy.round}",
            )  # fmt: skip
    axes.errorbar(
        x + _ASIDE, [each.mean for each in policies], [each.std for each in policies],
        color=BLUE, marker="o", linewidth=1.2, elinewidth=1.2, capsize=2.5, label="mean ± standard deviation",
    )  # fmt: skip
    if any(len(each.returns) for each in policies):
        axes.plot([], [], linestyle="none", marker="o", markersize=3, color=GRAY, label="one trajectory")
    _name_policies(axes, [each.round for each in policies])
    axes.set_xlim(x[0] - 0.5, x[-1] + 0.5)
    axes.set_ylabel("undiscounted return")
    axes.grid(axis="y", alpha=0.25)
    axes.legend(loc="best", frameon=False)


def draw_steps(kl: Axes, gradient: Axes, steps: Sequence[Step]) -> None:
    """Draws the size of each step: its KL divergence and the norm of its gradient."""
    x = [each.round + 1 for each in steps]
    kl.plot(x, [each.kl_divergence for each in steps], color=BLUE, marker="o", linewidth=1.2)
    kl.set_ylabel("KL (nats)")
    if all(each.kl_divergence > 0.0 for each in steps):
        kl.set_yscale("log")  # the first step may be a thousand times as large as the others
    gradient.plot(x, [each.gradient_norm for each in steps], color=BLUE, marker="o", linewidth=1.2)
    gradient.set_ylabel("‖∇L‖₂")
    gradient.set_xlabel("step")
    gradient.yaxis.set_major_locator(MaxNLocator(nbins=3))
    for axes in (kl, gradient):
        axes.margins(y=0.15)
        axes.set_xlim(x[0] - 0.5, x[-1] + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.grid(axis="y", alpha=0.25)
    gradient.set_ylim(bottom=0.0)
    kl.tick_params(labelbottom=False)


def _name_policies(axes: Axes, rounds: Sequence[int]) -> None:
    if len(rounds) <= _MOST_NAMES:
        axes.set_xticks(rounds, [policy_name(each) for each in rounds])
        axes.set_xlabel("policy, by rounds of adaptation")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("rounds of adaptation")
