"""The bare torch gradient: what an adaptation round cannot do without."""

from collections.abc import Callable

import torch

from thetaprime.models import MetaPolicy, Parameters, TrajectoryBatch, inner_advantages, reinforce_loss


def bare_gradient(meta_policy: MetaPolicy, batch: TrajectoryBatch) -> Callable[[], Parameters]:
    """∇L(θ) over trajectories that lie there as tensors, their advantages known."""
    advantage = inner_advantages(meta_policy.policy, batch, meta_policy.manifest.adaptation)

    def gradient() -> Parameters:
        leaves = {name: value.clone().requires_grad_() for name, value in meta_policy.parameters.items()}
        loss = reinforce_loss(leaves, meta_policy.policy, batch, advantage)
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    return gradient
