"""Returns, the linear feature baseline and advantages.

Everything here is computed in float64 and is a constant to the gradient.
"""

import functools
from typing import cast

import torch

from thetaprime.models.batch import TrajectoryBatch

_RIDGE_ATTEMPTS = 5


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
    """Least squares with ridge regularization, ten times more of it at each failure.

    Args:
        inputs: [S, F] features.
        targets: [S] returns.
        ridge: λ of (XᵀX + λI) w = Xᵀy.

    Returns:
        [F] weights; zeros when no attempt gave finite ones.
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

    The return counts `horizon` steps. After a trajectory that terminated, or that reached the horizon, nothing
    follows. One that was truncated earlier would have gone on: the baseline at its final observation,
    fitted on the trajectories that are complete (on all, where none is), stands for the rest.

    Args:
        batch: trajectories of one task, collected with one policy.
        horizon: H, the longest episode.
        discount: γ.
        gae_lambda: λ; 1 gives the discounted return minus the baseline.
        ridge: regularization of the baseline.

    Returns:
        [S] float32 with mean 0 and standard deviation 1 (all 0 where every advantage is alike).
    """
    rewards = batch.pad(batch.rewards.double())
    inputs = features(batch.observations, batch.time)
    lengths = torch.tensor(batch.lengths)
    last = lengths - 1
    rows = torch.arange(len(lengths))

    cut_short = ~batch.terminated & (lengths < horizon)
    tail = torch.zeros(len(lengths), dtype=torch.float64)
    if bool(cut_short.any()):
        complete = ~cut_short if not bool(cut_short.all()) else torch.ones_like(cut_short)
        used = batch.unpad(complete[:, None].expand(batch.mask.shape))
        sums = batch.unpad(discounted_sums(rewards, discount))
        weights = fit_baseline(inputs[used], sums[used], ridge)
        tail = torch.where(cut_short, features(batch.final_observations, lengths) @ weights, 0.0)

    followed = rewards.clone()
    followed[rows, last] += discount * tail
    targets = batch.unpad(discounted_sums(followed, discount))
    values = batch.pad(inputs @ fit_baseline(inputs, targets, ridge))

    next_values = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    residuals = (followed + discount * next_values - values) * batch.mask
    advantage = batch.unpad(discounted_sums(residuals, discount * gae_lambda))
    centered = advantage - advantage.mean()
    return (centered / (centered.square().mean().sqrt() + 1e-8)).float()
