"""The trajectories of one task, laid out for learning, with their returns, baseline and advantages.

Returns and advantages are computed in float64 and are constants to the gradient.
"""

import dataclasses
import functools
import weakref
from collections.abc import Sequence
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import torch

from thetaprime.models.baseline import Regressors, constant_return, discounted_count, features

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
            observations=torch.from_numpy(flat.astype(np.float32, copy=False)),
            actions=torch.from_numpy(np.concatenate(actions).astype(np.int64 if discrete else np.float32, copy=False)),
            rewards=torch.from_numpy(np.concatenate(rewards).astype(np.float32, copy=False)),
            lengths=lengths,
            terminated=torch.tensor(list(terminated), dtype=torch.bool),
            final_observations=torch.from_numpy(
                np.stack([each.reshape(-1) for each in final_observations]).astype(np.float32)
            ),
        )

    def first(self, trajectories: int) -> Self:
        """The batch of the first `trajectories` trajectories, or of all if there are fewer: then it is this batch."""
        if trajectories >= len(self.lengths):
            return self
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

    def select(self, trajectories: Sequence[int]) -> Self:
        """The batch of some trajectories, by their numbers, in the order of this batch."""
        used, steps = self._used(trajectories), self.steps_of(trajectories)
        return dataclasses.replace(
            self,
            observations=self.observations[steps],
            actions=self.actions[steps],
            rewards=self.rewards[steps],
            lengths=tuple(length for length, kept in zip(self.lengths, used.tolist(), strict=True) if kept),
            terminated=self.terminated[used],
            final_observations=self.final_observations[used],
        )

    def steps_of(self, trajectories: Sequence[int]) -> torch.Tensor:
        """[S] bool: whether each step is of one of some trajectories, by their numbers."""
        return self.unpad(self._used(trajectories)[:, None].expand(self.mask.shape))

    def _used(self, trajectories: Sequence[int]) -> torch.Tensor:
        used = torch.zeros(len(self.lengths), dtype=torch.bool)
        used[list(trajectories)] = True
        return used

    @functools.cached_property
    def mask(self) -> torch.Tensor:
        """[N, max H_n] bool: where the padded layout holds a step."""
        lengths = torch.tensor(self.lengths)
        return torch.arange(max(self.lengths)) < lengths[:, None]

    @functools.cached_property
    def _even(self) -> bool:
        """Whether all trajectories have one length, so that no mask is needed."""
        return len(set(self.lengths)) == 1

    @property
    def equally_long(self) -> int:
        """N if all trajectories have one length, otherwise 0."""
        return len(self.lengths) if self._even else 0

    @functools.cached_property
    def time(self) -> torch.Tensor:
        """[S] int64: the number of each step within its trajectory, from 0."""
        return self.unpad(torch.arange(max(self.lengths)).expand(self.mask.shape))

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

    @functools.cached_property
    def returns(self) -> torch.Tensor:
        """[N] float64: undiscounted return of each trajectory."""
        return self.pad(self.rewards.double()).sum(dim=1)


@functools.lru_cache(maxsize=32)
def _discounting(steps: int, discount: float) -> torch.Tensor:
    """[steps, steps]: M[s, t] = discount^(s − t) for s ≥ t, so that x @ M is the discounted sum from t on."""
    lag = (torch.arange(steps)[:, None] - torch.arange(steps)).clamp_min(0)
    powers: torch.Tensor = torch.pow(torch.full((steps, steps), discount, dtype=torch.float64), lag)
    return powers.tril()


def discounted_sums(padded: torch.Tensor, discount: float) -> torch.Tensor:
    """Σ_{s≥t} discount^(s−t) x_s along the last axis of [N, H] float64."""
    return padded @ _discounting(padded.shape[1], discount)


def decayed_past(batch: TrajectoryBatch, values: torch.Tensor, decay: float) -> torch.Tensor:
    """Σ_{s<t} decay^(t−s) x_s within each trajectory; [S] -> [S], differentiable."""
    weights = (_discounting(max(batch.lengths), decay).T - torch.eye(max(batch.lengths))).to(values.dtype)
    padded = torch.zeros(batch.mask.shape, dtype=values.dtype).masked_scatter(batch.mask, values)
    return batch.unpad(padded @ weights)


def baseline_inputs(batch: TrajectoryBatch, horizon: int, discount: float) -> Regressors:
    """The features of the baseline: those of `features`, then the return of a constant reward until the horizon."""
    constant, trajectories = constant_return(batch.time, horizon, discount), batch.equally_long
    return features(batch.observations, batch.time, constant, trajectories)


@dataclasses.dataclass(frozen=True, eq=False)
class BaselineTargets:
    """What the baseline is fitted to.

    Attributes:
        rewards: [N, max H_n], in units of the largest reward. The last one of a trajectory that was truncated early
            includes the discounted value of what follows.
        targets: [S], their discounted sums.
        constant: return of the mean reward from time 0 to the horizon, in the same unit.
    """

    rewards: torch.Tensor
    targets: torch.Tensor
    constant: torch.Tensor


def baseline_targets(
    batch: TrajectoryBatch, *, horizon: int, discount: float, ridge: float, inputs: Regressors
) -> BaselineTargets:
    """Returns what the baseline is fitted to; arguments as in `estimate_advantages`. Equal calls share the result."""
    asked = (batch, horizon, discount, ridge)
    known = _KNOWN_TARGETS.get(inputs)
    if known is None or known[0] != asked:
        known = asked, _baseline_targets(batch, horizon, discount, ridge, inputs)
        _KNOWN_TARGETS[inputs] = known
    return known[1]


# The advantages of a round and the verdict on its step ask for the same targets.
_KNOWN_TARGETS: "weakref.WeakKeyDictionary[Regressors, tuple[tuple[object, ...], BaselineTargets]]" = (
    weakref.WeakKeyDictionary()
)


def _baseline_targets(
    batch: TrajectoryBatch, horizon: int, discount: float, ridge: float, inputs: Regressors
) -> BaselineTargets:
    # The largest reward as the unit: neither a threshold below nor a number that overflows depends on the scale.
    unit = batch.rewards.double().abs().max()
    flat = batch.rewards.double() / unit if float(unit) else batch.rewards.double()
    rewards, level = batch.pad(flat), flat.mean()
    lengths = torch.tensor(batch.lengths)
    last = lengths - 1
    rows = torch.arange(len(lengths))
    # The return of a constant reward. No cubic of time resembles it near the end of an episode.
    constant = level * discounted_count(horizon, discount)[-1]
    unexplained = constant * inputs.rows[-1]

    cut_short = ~batch.terminated & (lengths < horizon)
    tail = torch.zeros(len(lengths), dtype=torch.float64)
    if bool(cut_short.any()):
        complete, sums = inputs, batch.unpad(discounted_sums(rewards, discount)) - unexplained
        if not bool(cut_short.all()):
            used = batch.unpad(~cut_short[:, None].expand(batch.mask.shape))
            complete, sums = inputs.select(used), sums[used]
        weights = complete.fit(sums, ridge)
        weights[-1] += constant
        last_return = constant_return(lengths, horizon, discount)
        after = weights @ features(batch.final_observations, lengths, last_return).rows
        tail = torch.where(cut_short, after, 0.0)

    followed = rewards.clone()
    followed[rows, last] += discount * tail
    return BaselineTargets(followed, batch.unpad(discounted_sums(followed, discount)), constant)


def estimate_advantages(
    batch: TrajectoryBatch,
    *,
    horizon: int,
    discount: float,
    gae_lambda: float,
    ridge: float,
    inputs: Regressors | None = None,
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
        inputs: from `baseline_inputs`, if already computed.

    Returns:
        [S] float32 with mean 0 and standard deviation 1 (all 0 if the advantages differ by rounding alone). They depend
        neither on the reward's scale nor, if all trajectories have one length, on its offset.
    """
    inputs = inputs or baseline_inputs(batch, horizon, discount)
    problem = baseline_targets(batch, horizon=horizon, discount=discount, ridge=ridge, inputs=inputs)
    followed, targets, constant = problem.rewards, problem.targets, problem.constant
    # The ridge shrinks the weight of the constant reward toward that of the mean reward, instead of toward 0.
    weights = inputs.fit(targets - constant * inputs.rows[-1], ridge)
    weights[-1] += constant
    values = batch.pad(weights @ inputs.rows)

    next_values = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    residuals = (followed + discount * next_values - values) * batch.mask
    advantage = batch.unpad(discounted_sums(residuals, discount * gae_lambda))
    centered = advantage - advantage.mean()
    deviation = centered.square().mean().sqrt()
    if float(deviation) <= _ROUNDING * float(targets.abs().max()):
        return torch.zeros_like(centered, dtype=torch.float32)
    return (centered / deviation).float()
