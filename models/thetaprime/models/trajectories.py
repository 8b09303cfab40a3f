"""The trajectories of one task, laid out for learning, with their returns, baseline and advantages.

Returns and advantages are computed in float64 and are constants to the gradient.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Final, Self, cast

import numpy as np
import numpy.typing as npt
import torch

_RIDGE_ATTEMPTS: Final = 5
# float32 rewards carry a relative error of 6e-8, and the baseline's ridge adds a little.
_ROUNDING: Final = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class TrajectoryBatch:
    """N whole trajectories of one task, concatenated: S steps in all.

    Without padding, trajectories may differ in length at no cost.

    Attributes:
        observations: [S, O] float32.
        actions: [S, A] float32 in policy units, unclipped; or [S] int64, counted from 0.
        rewards: [S] float32.
        lengths: H_n of each trajectory; their sum is S.
        terminated: [N] bool; whether each ended in a terminal state (otherwise it was truncated).
        final_observations: [N, O] float32; the observation after each last action.
    """

    observations: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    lengths: tuple[int, ...]
    terminated: torch.Tensor
    final_observations: torch.Tensor

    @classmethod
    def concatenate(
        cls,
        observations: Sequence[npt.NDArray[Any]],
        actions: Sequence[npt.NDArray[Any]],
        rewards: Sequence[npt.NDArray[Any]],
        terminated: Sequence[bool],
        final_observations: Sequence[npt.NDArray[Any]],
    ) -> Self:
        """Builds a batch from the arrays of each trajectory.

        Args:
            observations: N times [H_n, *observation_shape].
            actions: N times [H_n, A] float or [H_n] integer.
            rewards: N times [H_n].
            terminated: N flags.
            final_observations: N times [*observation_shape].
        """
        lengths = tuple(len(each) for each in rewards)
        discrete = actions[0].dtype.kind == "i"
        flat = np.concatenate([each.reshape(len(each), -1) for each in observations])
        return cls(
            observations=torch.from_numpy(flat.astype(np.float32)),
            actions=torch.from_numpy(np.concatenate(actions).astype(np.int64 if discrete else np.float32)),
            rewards=torch.from_numpy(np.concatenate(rewards).astype(np.float32)),
            lengths=lengths,
            terminated=torch.tensor(list(terminated), dtype=torch.bool),
            final_observations=torch.from_numpy(
                np.stack([each.reshape(-1) for each in final_observations]).astype(np.float32)
            ),
        )

    def first(self, trajectories: int) -> Self:
        """The batch of the first `trajectories` trajectories, or of all if there are fewer."""
        kept = slice(None, sum(self.lengths[:trajectories]))
        return dataclasses.replace(
            self,
            observations=self.observations[kept],
            actions=self.actions[kept],
            rewards=self.rewards[kept],
            lengths=self.lengths[:trajectories],
            terminated=self.terminated[:trajectories],
            final_observations=self.final_observations[:trajectories],
        )

    @functools.cached_property
    def mask(self) -> torch.Tensor:
        """[N, max H_n] bool: where the padded layout holds a step."""
        lengths = torch.tensor(self.lengths)
        return torch.arange(max(self.lengths)) < lengths[:, None]

    @functools.cached_property
    def _even(self) -> bool:
        """Whether all trajectories have one length, so that no mask is needed."""
        return len(set(self.lengths)) == 1

    @functools.cached_property
    def time(self) -> torch.Tensor:
        """[S] float64: the number of each step within its trajectory, from 0."""
        return self.unpad(torch.arange(max(self.lengths), dtype=torch.float64).expand(self.mask.shape))

    def pad(self, values: torch.Tensor) -> torch.Tensor:
        """[S] -> [N, max H_n], zero after each trajectory's end."""
        if self._even:
            return values.reshape(self.mask.shape)
        padded = values.new_zeros(self.mask.shape)
        padded[self.mask] = values
        return padded

    def unpad(self, padded: torch.Tensor) -> torch.Tensor:
        """[N, max H_n] -> [S]: the inverse of `pad`."""
        return padded.reshape(-1) if self._even else padded[self.mask]

    def sum_trajectories(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """[S, ...] -> [N, ...]: the sum over each trajectory's steps."""
        totals: npt.NDArray[Any] = np.add.reduceat(values, np.cumsum((0, *self.lengths[:-1])), axis=0)
        return totals

    @property
    def returns(self) -> torch.Tensor:
        """[N] float64: undiscounted return of each trajectory."""
        return self.pad(self.rewards.double()).sum(dim=1)


def features(observations: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """[clip(o, ±10), o², t/100, (t/100)², (t/100)³, 1] (Duan et al. 2016, supplement).

    Args:
        observations: [S, O].
        time: [S], steps since the start of the trajectory.

    Returns:
        [S, 2·O + 4] float64.
    """
    clipped = observations.double().clamp(-10.0, 10.0)
    t = (time.double() / 100.0)[:, None]
    return torch.cat([clipped, clipped**2, t, t**2, t**3, torch.ones_like(t)], dim=1)


def fit_baseline(inputs: torch.Tensor, targets: torch.Tensor, ridge: float) -> torch.Tensor:
    """Weights of the linear baseline: least squares with a ridge, ten times larger after each failure.

    Args:
        inputs: [S, F] features.
        targets: [S] returns.
        ridge: λ of (XᵀX + λI) w = Xᵀy.

    Returns:
        [F] weights; zeros if no attempt gave finite ones.
    """
    gram, moment = inputs.T @ inputs, inputs.T @ targets
    identity = torch.eye(inputs.shape[1], dtype=inputs.dtype)
    for attempt in range(_RIDGE_ATTEMPTS):
        weights, info = torch.linalg.solve_ex(gram + ridge * 10.0**attempt * identity, moment)
        if not info.item() and bool(torch.isfinite(weights).all()):
            return cast("torch.Tensor", weights)
    return torch.zeros_like(moment)


@functools.lru_cache(maxsize=32)
def _discounting(steps: int, discount: float) -> torch.Tensor:
    """[steps, steps]: M[s, t] = discount^(s − t) for s ≥ t, so that x @ M is the discounted sum from t on."""
    lag = (torch.arange(steps)[:, None] - torch.arange(steps)).clamp_min(0)
    powers: torch.Tensor = torch.pow(torch.full((steps, steps), discount, dtype=torch.float64), lag)
    return powers.tril()


def _with_feature(inputs: torch.Tensor, count: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """[S, F] -> [S, F + 1]: and the return of a constant reward from each time to the horizon, 1 at time 0."""
    remaining = count[(len(count) - 1 - time.long()).clamp_min(0)]
    return torch.cat([inputs, (remaining / count[-1])[:, None]], dim=1)


def _discounted_count(steps: int, discount: float) -> torch.Tensor:
    """[steps + 1] float64: Σ_{s<n} discount^s for n = 0 … steps, the return of n rewards of 1."""
    powers = torch.pow(torch.tensor(discount, dtype=torch.float64), torch.arange(steps))
    return torch.cat([powers.new_zeros(1), powers.cumsum(0)])


def discounted_sums(padded: torch.Tensor, discount: float) -> torch.Tensor:
    """Σ_{s≥t} discount^(s−t) x_s along the last axis of [N, H] float64."""
    return padded @ _discounting(padded.shape[1], discount)


def decayed_past(batch: TrajectoryBatch, values: torch.Tensor, decay: float) -> torch.Tensor:
    """Σ_{s<t} decay^(t−s) x_s within each trajectory; [S] -> [S], differentiable."""
    weights = (_discounting(max(batch.lengths), decay).T - torch.eye(max(batch.lengths))).to(values.dtype)
    padded = torch.zeros(batch.mask.shape, dtype=values.dtype).masked_scatter(batch.mask, values)
    return batch.unpad(padded @ weights)


def estimate_advantages(
    batch: TrajectoryBatch, *, horizon: int, discount: float, gae_lambda: float, ridge: float
) -> torch.Tensor:
    """Generalized advantages (Schulman et al. 2016), normalized over the task.

    The baseline is linear in `features` and in the return of a constant reward until the horizon. So a constant that is
    added to every reward changes no advantage of episodes of `horizon` steps.

    The return counts `horizon` steps. Nothing follows a trajectory that terminated or reached the horizon. For a
    trajectory that was truncated earlier, the baseline at its final observation stands for the remaining return. That
    baseline is fitted to the complete trajectories, or to all if none is complete.

    Args:
        batch: trajectories of one task, collected with one policy.
        horizon: H, the longest episode.
        discount: γ.
        gae_lambda: λ; 1 gives the discounted return minus the baseline.
        ridge: ridge of the baseline.

    Returns:
        [S] float32 with mean 0 and standard deviation 1 (all 0 if the advantages differ by rounding alone). They depend
        neither on the reward's scale nor, if all trajectories have one length, on its offset.
    """
    # The largest reward as the unit: neither a threshold below nor a number that overflows depends on the scale.
    unit = batch.rewards.double().abs().max()
    flat = batch.rewards.double() / unit if float(unit) else batch.rewards.double()
    rewards, level = batch.pad(flat), flat.mean()
    lengths = torch.tensor(batch.lengths)
    last = lengths - 1
    rows = torch.arange(len(lengths))
    # The return of a constant reward. No cubic of time resembles it near the end of an episode.
    count = _discounted_count(horizon, discount)
    inputs = _with_feature(features(batch.observations, batch.time), count, batch.time)
    constant = level * count[-1]

    cut_short = ~batch.terminated & (lengths < horizon)
    tail = torch.zeros(len(lengths), dtype=torch.float64)
    if bool(cut_short.any()):
        complete = ~cut_short if not bool(cut_short.all()) else torch.ones_like(cut_short)
        used = batch.unpad(complete[:, None].expand(batch.mask.shape))
        sums = batch.unpad(discounted_sums(rewards, discount))
        weights = fit_baseline(inputs[used], (sums - constant * inputs[:, -1])[used], ridge)
        weights[-1] += constant
        after = _with_feature(features(batch.final_observations, lengths), count, lengths) @ weights
        tail = torch.where(cut_short, after, 0.0)

    followed = rewards.clone()
    followed[rows, last] += discount * tail
    targets = batch.unpad(discounted_sums(followed, discount))
    # The ridge shrinks the weight of the constant reward toward that of the mean reward, instead of toward 0.
    weights = fit_baseline(inputs, targets - constant * inputs[:, -1], ridge)
    weights[-1] += constant
    values = batch.pad(inputs @ weights)

    next_values = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    residuals = (followed + discount * next_values - values) * batch.mask
    advantage = batch.unpad(discounted_sums(residuals, discount * gae_lambda))
    centered = advantage - advantage.mean()
    deviation = centered.square().mean().sqrt()
    if float(deviation) <= _ROUNDING * float(targets.abs().max()):
        return torch.zeros_like(centered, dtype=torch.float32)
    return (centered / deviation).float()
