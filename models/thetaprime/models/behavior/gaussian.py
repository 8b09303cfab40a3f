"""The test of a Gaussian policy's actions, on their standardized noise z = (a − μ(o)) / σ, which is standard normal."""

import dataclasses
import functools
import itertools
import math
from typing import Final, NamedTuple

import numpy as np
import torch

from thetaprime.models.behavior.evidence import Array, Groups, share_ratios
from thetaprime.models.policy import Policy
from thetaprime.models.trajectories import TrajectoryBatch

_NEAR: Final = 0.05
_DENSITY: Final = 1.0 / math.sqrt(2.0 * math.pi)
# |z| ≤ _NEAR with a resolution of at most _NEAR: the float32 grid on which actions lie.
NEAR_CHANCE: Final = _DENSITY * 3.0 * _NEAR
"""At least the probability that the noise in one dimension is near 0."""
# A smaller bound would let a single chance hit weigh too much.
_LEAST_CHANCE: Final = 1e-4
_REPEAT_CHANCE: Final = 1e-3
# The spacing of float32 numbers below _LARGEST, with room for the rounding of the mean.
_LARGEST: Final = 64.0
_GRID: Final = _LARGEST * 2.0**-22
_SHARES: Final = (0.05, 0.3, 0.9)
_TAIL_SHARE, _TAIL_SPREAD = 0.1, 3.0
_CLIPPED_SHARE: Final = 0.003
_SHIFT_VARIANCES: Final = (0.0225, 1.0)
_LAG_CORRELATIONS: Final = (-0.3, 0.2, 0.5, 0.8, 0.99)
_DIMENSION_CORRELATIONS: Final = (0.2, 0.5, 0.9, 0.999)
_PAIR_CORRELATIONS: Final = (-0.9, -0.5, 0.5, 0.9, 0.999)
# Beyond this many dimensions only those side by side are paired.
_PAIRED_DIMENSIONS: Final = 8
_WIDE: Final = 2.0
WIDE_CHANCE: Final = math.erfc(_WIDE / math.sqrt(2.0))
"""The probability that the noise in one dimension is beyond ±2."""
_WIDE_SHARES: Final = (0.002, 0.02, 0.08, 0.15)


class GaussianStatistics(NamedTuple):
    """The statistics of `GaussianTest` by name; each with the leading axes of the statistics."""

    steps: Array
    pairs: Array
    shift: Array
    spread: Array
    near: Array
    all_near: Array
    repeats: Array
    clipped: Array
    clipping: Array
    tail: Array
    wide: Array
    lag: Array
    lag_spread: Array
    common: Array
    together: Array
    earlier: Array


@dataclasses.dataclass(frozen=True)
class GaussianTest:
    """The statistics of a Gaussian policy's trajectories, and the alternatives that they are tested against.

    The statistics are sums over steps, so those of a whole are the sums of those of its parts. The columns are, for A
    dimensions:

    ======================= ==============================================================
    steps, pairs            numbers of steps, and of steps with a predecessor
    shift [A]               Σ z
    spread [A]              Σ (z² − 1)
    near [A], near_all      steps with z within ±0.05, in one dimension and in all
    repeats                 steps with exactly the action of the step before
    clipped, clipping       steps with an action of exactly ±1; log likelihood ratio
    tail                    log likelihood ratio of a tenth of the steps with three times the noise
    wide                    numbers z beyond ±2
    lag, lag_spread         Σ z_t·z_{t−1} and Σ (z_t² + z_{t−1}² − 2), over all dimensions
    common                  Σ ((Σ_d z_d)² / A − 1)
    together [pairs]        Σ z_d·z_e, over pairs of dimensions
    earlier [2]             log likelihood ratios of the previous policy and of the first
    ======================= ==============================================================

    Attributes:
        size: A.
    """

    size: int

    @property
    def columns(self) -> int:
        """The number of statistics."""
        return 3 * self.size + 13 + len(self.pairs[0])

    @functools.cached_property
    def pairs(self) -> tuple[list[int], list[int]]:
        """The first and the second dimension of each pair that is tested for a correlation."""
        if self.size <= _PAIRED_DIMENSIONS:
            found = list(itertools.combinations(range(self.size), 2))
        else:
            found = list(itertools.pairwise(range(self.size)))
        return [first for first, _ in found], [second for _, second in found]

    def measure(
        self, policy: Policy, outputs: tuple[torch.Tensor, ...], batch: TrajectoryBatch, earlier: Array
    ) -> Array:
        """Returns the statistics of each trajectory.

        Args:
            policy: the network.
            outputs: its mean [S, A] and log standard deviation [A], as from `Policy.outputs`.
            batch: the trajectories.
            earlier: [2, S], log likelihood ratios of earlier policies.

        Returns:
            [N, columns] float64.
        """
        size, steps = self.size, sum(batch.lengths)
        actions, mean = batch.actions.numpy(), outputs[0].numpy()
        std = np.exp(outputs[1].numpy().astype(np.float64))
        first = np.cumsum((0, *batch.lengths[:-1]))

        # One row for each statistic, so that every operation runs along the steps.
        rows = np.zeros((self.columns, steps), np.float32)
        rows[:2] = 1.0
        rows[1, first] = 0.0
        successive, z = rows[1, 1:], rows[2 : 2 + size]
        np.subtract(actions.T, mean.T, out=z)
        z /= std.astype(np.float32)[:, None]
        squares, spread = z * z, rows[2 + size : 2 + 2 * size]
        np.subtract(squares, 1.0, out=spread)
        # The grid of float32 must be fine beside the noise: otherwise honest actions may equal the mean, or repeat.
        exact = np.abs(mean).max() < _LARGEST
        near, rest = rows[2 + 2 * size : 2 + 3 * size], rows[2 + 3 * size :]
        if exact:
            np.less(squares, np.where(_GRID / std <= _NEAR, _NEAR**2, 0.0).astype(np.float32)[:, None], out=near)
            np.multiply.reduce(near, axis=0, out=rest[0])
        norms = squares.sum(axis=0)
        if exact and (_GRID / std * _DENSITY <= _REPEAT_CHANCE).any():
            repeats = actions[1:, 0] == actions[:-1, 0]
            if repeats.any():
                rest[1, 1:] = repeats & (actions[1:] == actions[:-1]).all(axis=1) & (successive > 0)
        self._count_clipped(policy, actions, std, rest[2], rest[3])
        far = math.log(_TAIL_SHARE) - size * math.log(_TAIL_SPREAD)
        ratio = np.exp((1 - _TAIL_SPREAD**-2) / 2 * norms + (far - math.log1p(-_TAIL_SHARE)))
        np.log1p(ratio, out=rest[4])
        rest[4] += math.log1p(-_TAIL_SHARE)
        (squares > _WIDE**2).sum(axis=0, out=rest[5], dtype=np.float32)
        np.multiply((z[:, 1:] * z[:, :-1]).sum(axis=0), successive, out=rest[6, 1:])
        np.multiply(norms[1:] + norms[:-1] - 2 * size, successive, out=rest[7, 1:])
        np.square(z.sum(axis=0), out=rest[8])
        rest[8] /= size
        rest[8] -= 1.0
        first_dimensions, second_dimensions = self.pairs
        np.multiply(z[first_dimensions], z[second_dimensions], out=rest[9:-2])
        rest[-2:] = earlier
        totals: Array = np.add.reduceat(rows, first, axis=1, dtype=np.float64)
        return totals.T

    @staticmethod
    def _count_clipped(policy: Policy, actions: Array, std: Array, count: Array, ratio: Array) -> None:
        """Writes whether each step has a clipped action, and the step's log likelihood ratio."""
        clip = policy.scaling[0].numpy()
        chance = min(max(1e-6, float((np.isfinite(clip) * _DENSITY * 2.0**-22 / std).sum())), 1.0)
        ratio[:] = math.log1p(-_CLIPPED_SHARE)
        found = np.flatnonzero((np.abs(actions) == clip).ravel())
        if len(found):
            clipped = np.unique(found // len(clip))
            count[clipped] = 1.0
            ratio[clipped] = math.log1p(_CLIPPED_SHARE * (1 / chance - 1))

    def log_ratios(self, statistics: Array) -> Groups:
        """Returns the log likelihood ratios of the alternatives; see `Groups`.

        Args:
            statistics: [R, columns].
        """
        return {**self.linear_ratios(statistics), **self.curved_ratios(statistics)}

    def linear_ratios(self, statistics: Array) -> Groups:
        """Returns those of the log likelihood ratios that are linear in the statistics [R, columns]."""
        each = self.named(statistics)
        near = share_ratios(each.near, each.steps[:, None], NEAR_CHANCE, _SHARES)
        all_near_chance = max(NEAR_CHANCE**self.size, _LEAST_CHANCE)
        return {
            "mean": (0.05, share_ratios(each.all_near, each.steps, all_near_chance, _SHARES)),
            "mean of one": (0.02, near.reshape(len(statistics), -1)),
            "repeats": (0.01, share_ratios(each.repeats, each.steps, _REPEAT_CHANCE, _SHARES)),
            "clipped": (0.01, each.clipping[:, None]),
            "tail": (0.005, each.tail[:, None]),
            "wide": (0.005, _counted(each.wide, each.steps * self.size)),
            "lag": (0.01, _correlated(each.lag, each.lag_spread, each.pairs * self.size, _LAG_CORRELATIONS)),
            **self._pair_ratios(each),
            "common": (0.005, _equally_correlated(each.common, each.spread.sum(axis=1), each.steps, self.size)),
            "earlier": (0.02, each.earlier),
        }

    def _pair_ratios(self, each: "GaussianStatistics") -> Groups:
        first, second = self.pairs
        if not first:
            return {}
        spread, steps = each.spread[:, first] + each.spread[:, second], each.steps[:, None]
        ratios = _correlated(each.together, spread, np.broadcast_to(steps, spread.shape), _PAIR_CORRELATIONS)
        return {"together": (0.005, ratios.reshape(len(steps), -1))}

    def curved_ratios(self, statistics: Array) -> Groups:
        """Returns the others: mixtures of all shifts, and of all scales."""
        each, size = self.named(statistics), self.size
        steps = each.steps[:, None]
        spread = np.concatenate([each.spread, each.spread.sum(axis=1, keepdims=True)], axis=1)
        scaled = _scaled(spread, steps * np.array([1.0] * size + [size]))
        narrow, wide = _SHIFT_VARIANCES
        return {
            "shift": (0.75, _shifted(each.shift, steps, narrow)),
            "far shift": (0.05, _shifted(each.shift, steps, wide)),
            "spread of one": (0.02, scaled[:, :-1]),
            "spread": (0.04, scaled[:, -1:]),
        }

    def named(self, statistics: Array) -> GaussianStatistics:
        """Returns the statistics [..., columns] by name."""
        ends = [2 + part * self.size for part in range(4)]
        dimensions = (statistics[..., begin:end] for begin, end in itertools.pairwise(ends))
        rest = (statistics[..., ends[-1] + index] for index in range(9))
        together = statistics[..., ends[-1] + 9 : -2]
        parts = (statistics[..., 0], statistics[..., 1], *dimensions, *rest, together, statistics[..., -2:])
        return GaussianStatistics._make(parts)


def _shifted(shift: Array, steps: Array, variance: float) -> Array:
    """A normal mixture of shifts with a mean of 0: ∫ Π N(z; δ, 1) / N(z; 0, 1) dN(δ; 0, variance)."""
    shifted: Array = np.square(shift) / (2 * (steps + 1 / variance)) - 0.5 * np.log1p(steps * variance)
    return shifted


def _scaled(spread: Array, numbers: Array) -> Array:
    """An exponential mixture of precisions with a mean of 1: ∫ Π N(z; 0, 1/λ) / N(z; 0, 1) e^(−λ) dλ.

    Args:
        spread: Σ (z² − 1) over the numbers.
        numbers: how many there are.
    """
    half, squares = numbers / 2, (spread + numbers) / 2
    # For the few trajectories of an upload, torch's own function takes five times as long.
    log_gamma = np.array([math.lgamma(each + 1) for each in half.ravel().tolist()]).reshape(half.shape)
    scaled: Array = squares + log_gamma - (half + 1) * np.log1p(squares)
    return scaled


def _counted(hits: Array, numbers: Array) -> Array:
    """Other shares of the numbers beyond ±2 than the normal distribution's; [R] -> [R, shares]."""
    share = np.array(_WIDE_SHARES)
    hit, miss = np.log(share / WIDE_CHANCE), np.log((1 - share) / (1 - WIDE_CHANCE))
    counted: Array = hits[:, None] * hit + (numbers - hits)[:, None] * miss
    return counted


def _correlated(products: Array, spread: Array, pairs: Array, correlations: tuple[float, ...]) -> Array:
    """A correlation ρ of pairs (x, y) whose y is standard normal given x: [...] -> [..., correlations].

    Args:
        products: Σ xy.
        spread: Σ (x² + y² − 2).
        pairs: how many there are.
        correlations: the values of ρ.
    """
    rho = np.array(correlations)
    rest = 1 - rho**2
    squares = (spread + 2 * pairs)[..., None]
    correlated: Array = -pairs[..., None] / 2 * np.log(rest) - (rho**2 * squares - 2 * rho * products[..., None]) / (
        2 * rest
    )
    return correlated


def _equally_correlated(common: Array, total: Array, steps: Array, size: int) -> Array:
    """One correlation ρ of all pairs of dimensions; [R] -> [R, correlations].

    Args:
        common: Σ ((Σ_d z_d)² / A − 1).
        total: Σ (z² − 1) over all dimensions.
        steps: how many steps there are.
        size: A.
    """
    rho = np.array(_DIMENSION_CORRELATIONS) if size > 1 else np.zeros(1)
    along, across = 1 + (size - 1) * rho, 1 - rho
    common, total, steps = common[:, None] + steps[:, None], total[:, None] + size * steps[:, None], steps[:, None]
    correlated: Array = (
        -steps / 2 * (np.log(along) + (size - 1) * np.log(across))
        + (1 - 1 / along) / 2 * common
        + (1 - 1 / across) / 2 * (total - common)
    )
    return correlated
