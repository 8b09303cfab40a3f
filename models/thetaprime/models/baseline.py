"""The linear baseline: least squares on features of observation and time.

Returns, and the rewards themselves, are regressed on the same features. One set of features, and one product of them,
serves all regressions of a batch.
"""

import dataclasses
import functools
from typing import Final, Self, cast

import torch

_RIDGE_ATTEMPTS: Final = 5
_TIME_FEATURES: Final = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Regressors:
    """The features of S steps, one row for each: every operation on a feature runs along the steps.

    Attributes:
        rows: [F, S] float64.
        gram: [F, F]: the products of the features, summed over the steps.
        parts: [N, F, F]: the same, summed over the steps of each trajectory; None where they were not computed.
    """

    rows: torch.Tensor
    gram: torch.Tensor
    parts: torch.Tensor | None = None

    @classmethod
    def of(cls, rows: torch.Tensor, trajectories: int = 0) -> Self:
        """Multiplies the features [F, S] with each other.

        Args:
            rows: [F, S].
            trajectories: N, where all have one length: `parts` then comes at no cost. 0 for no `parts`.
        """
        if not trajectories:
            return cls(rows, rows @ rows.T)
        each = rows.reshape(len(rows), trajectories, -1).transpose(0, 1)
        parts = each @ each.transpose(1, 2)
        return cls(rows, parts.sum(0), parts)

    def first(self, count: int) -> Self:
        """The first `count` features, without another product."""
        return type(self)(self.rows[:count], self.gram[:count, :count])

    def select(self, steps: torch.Tensor) -> Self:
        """The features of the steps where `steps`, [S] bool, is true."""
        return type(self).of(self.rows[:, steps])

    def fit(self, targets: torch.Tensor, ridge: float) -> torch.Tensor:
        """Weights by least squares with a ridge, which is ten times larger after each failure.

        Args:
            targets: [S].
            ridge: λ of (XᵀX + λI) w = Xᵀy.

        Returns:
            [F] weights; zeros if no attempt gave finite ones.
        """
        moment = self.rows @ targets
        identity = torch.eye(len(moment), dtype=moment.dtype)
        for attempt in range(_RIDGE_ATTEMPTS):
            weights, info = torch.linalg.solve_ex(self.gram + ridge * 10.0**attempt * identity, moment)
            if not info.item() and bool(torch.isfinite(weights).all()):
                return cast("torch.Tensor", weights)
        return torch.zeros_like(moment)

    def residuals(self, targets: torch.Tensor, ridge: float) -> torch.Tensor:
        """[S]: what the features do not explain of the targets [S]."""
        return targets - self.fit(targets, ridge) @ self.rows


def features(
    observations: torch.Tensor, time: torch.Tensor, more: torch.Tensor | None = None, trajectories: int = 0
) -> Regressors:
    """[clip(o, ±10), o², t/100, (t/100)², (t/100)³, 1] (Duan et al. 2016, supplement).

    Args:
        observations: [S, O].
        time: [S] int64, steps since the start of the trajectory.
        more: [S], a last feature.
        trajectories: as in `Regressors.of`.

    Returns:
        2·O + 4 features of S steps, or 2·O + 5 with `more`.
    """
    steps, size = observations.shape
    timed = _time_features(int(time.max()) + 1)
    rows = torch.empty(2 * size + len(timed) + (more is not None), steps, dtype=torch.float64)
    clipped = rows[:size].copy_(observations.T).clamp_(-10.0, 10.0)
    torch.square(clipped, out=rows[size : 2 * size])
    torch.index_select(timed, 1, time, out=rows[2 * size : 2 * size + len(timed)])
    if more is not None:
        rows[-1] = more
    return Regressors.of(rows, trajectories)


def constant_return(time: torch.Tensor, horizon: int, discount: float) -> torch.Tensor:
    """[S] float64: the return of a constant reward from each time [S] to the horizon, 1 at time 0."""
    count = discounted_count(horizon, discount)
    return (count / count[-1])[(horizon - time).clamp_min(0)]


@functools.lru_cache(maxsize=32)
def discounted_count(steps: int, discount: float) -> torch.Tensor:
    """[steps + 1] float64: Σ_{s<n} discount^s for n = 0 … steps, the return of n rewards of 1."""
    powers = torch.pow(torch.tensor(discount, dtype=torch.float64), torch.arange(steps))
    return torch.cat([powers.new_zeros(1), powers.cumsum(0)])


@functools.lru_cache(maxsize=32)
def _time_features(steps: int) -> torch.Tensor:
    """[4, steps] float64: t/100, (t/100)², (t/100)³, 1."""
    t = torch.arange(steps, dtype=torch.float64) / 100.0
    return torch.stack([t, t**2, t**3, torch.ones_like(t)])
