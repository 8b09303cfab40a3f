"""The test of a categorical policy's actions, on the probabilities that the policy gave to each of them."""

import dataclasses
from typing import Final

import numpy as np
import torch

from thetaprime.models.behavior.evidence import Array, Groups
from thetaprime.models.policy import Policy
from thetaprime.models.trajectories import TrajectoryBatch

# π^(1+t), normalized: a lower temperature, or a higher one; t = −1 is the uniform distribution. The evidence of a small
# deviation varies least where the tilt is smaller than the deviation, so the first two find a temperature of 0.8 or
# 1.25 more often than those of these temperatures would. They have most of the weight: of the others, a round has
# evidence in plenty.
_TILTS: Final = (0.18, -0.16, 0.5, 1.0, 2.0, -0.5, -1.0)
_NEAR_TILTS: Final = 2
_GREEDY_SHARES: Final = (0.1, 0.3, 0.99)
_REPEATED_SHARES: Final = (0.1, 0.3, 0.9)
_PREFERENCES: Final = (0.4, -0.4)
# Beyond this many actions a single one is too rare to be worth two alternatives.
_PREFERRED_ACTIONS: Final = 32
_SUMS: Final = 5
_RATIOS: Final = len(_TILTS) + len(_GREEDY_SHARES) + len(_REPEATED_SHARES)


@dataclasses.dataclass(frozen=True)
class CategoricalTest:
    """The statistics of a categorical policy's trajectories, and the alternatives that they are tested against.

    The statistics are sums over steps, so those of a whole are the sums of those of its parts. The columns are:

    ======================= ==============================================================
    steps                   number of steps
    chosen, expected        Σ log π(a), and its mean Σ_a π(a) log π(a)
    greedy, likely          steps with the likeliest action, and their expected number
    tilts [7]               log likelihood ratios of π^(1+t)
    greedy [3]              of a share of the steps with the likeliest action
    repeats [3]             of a share of the steps with the action of the step before
    preferences [2·A]       of more, or less, weight on one action; none beyond 32 actions
    earlier [2]             of the previous policy and of the first
    ======================= ==============================================================

    Attributes:
        size: A, the number of actions.
    """

    size: int

    @property
    def columns(self) -> int:
        """The number of statistics."""
        preferences = 2 * self.size if self.size <= _PREFERRED_ACTIONS else 0
        return _SUMS + _RATIOS + preferences + 2

    def measure(
        self, policy: Policy, outputs: tuple[torch.Tensor, ...], batch: TrajectoryBatch, earlier: Array
    ) -> Array:
        """Returns the statistics of each trajectory.

        Args:
            policy: the network.
            outputs: its logits [S, A], as from `Policy.outputs`.
            batch: the trajectories.
            earlier: [2, S], log likelihood ratios of earlier policies.

        Returns:
            [N, columns] float64.
        """
        log_p = outputs[0].double().log_softmax(-1)
        p = log_p.exp()
        chosen = log_p.gather(1, batch.actions[:, None])[:, 0]
        best = log_p.max(dim=1).values
        greedy = (chosen == best).double()
        repeated = torch.zeros_like(greedy)
        repeated[1:] = (batch.actions[1:] == batch.actions[:-1]).double()
        first = np.cumsum((0, *batch.lengths[:-1]))
        pairs = torch.ones_like(greedy)
        pairs[first] = 0.0

        rows = [torch.ones_like(chosen), chosen, (p * log_p).sum(1), greedy, best.exp()]
        # E[π(a)^t] is known at each step.
        rows += [t * chosen - ((1 + t) * log_p).logsumexp(1) for t in _TILTS]
        rows += [torch.log(1 - share + share * greedy * (-best).exp()) for share in _GREEDY_SHARES]
        again = repeated * (-chosen).exp()
        rows += [pairs * torch.log(1 - share + share * again) for share in _REPEATED_SHARES]
        if self.size <= _PREFERRED_ACTIONS:
            taken = torch.nn.functional.one_hot(batch.actions, self.size)
            for preference in _PREFERENCES:
                ratio = preference * taken - torch.log1p(p * np.expm1(preference))
                rows += ratio.T
        values = np.concatenate([torch.stack(rows).numpy(), earlier])
        totals: Array = np.add.reduceat(values, first, axis=1)
        return totals.T

    def log_ratios(self, statistics: Array) -> Groups:
        """Returns the log likelihood ratios of the alternatives; see `Groups`.

        Args:
            statistics: [R, columns].
        """
        return self.linear_ratios(statistics)

    def linear_ratios(self, statistics: Array) -> Groups:
        """Returns those of the log likelihood ratios that are linear in the statistics [R, columns]: all."""
        ends = np.cumsum((_SUMS, len(_TILTS), len(_GREEDY_SHARES), len(_REPEATED_SHARES)))
        _, tilts, greedy, repeats, preferences = np.split(statistics[:, :-2], ends, axis=1)
        groups: Groups = {
            "spread": (0.4, tilts[:, :_NEAR_TILTS]),
            "far spread": (0.02, tilts[:, _NEAR_TILTS:]),
            "mean": (0.2, greedy),
            "repeats": (0.05, repeats),
            "earlier": (0.05, statistics[:, -2:]),
        }
        if preferences.shape[1]:
            groups["shift"] = (0.28, preferences)
        return groups

    def curved_ratios(self, statistics: Array) -> Groups:
        """Returns the others: none."""
        return {}
