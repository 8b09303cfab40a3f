"""The bare torch gradient: what an adaptation round cannot do without."""

from collections.abc import Callable, Sequence

import torch

from thetaprime.models import MetaPolicy, TrajectoryBatch, inner_advantages, reinforce_loss
from thetaprime.wire import Trajectory


def bare_gradient(meta_policy: MetaPolicy, collected: Sequence[Trajectory]) -> Callable[[], object]:
    """∇L(θ) over trajectories that lie there as tensors, their advantages known."""
    batch = TrajectoryBatch.concatenate(
        [each.observations for each in collected],
        [each.actions for each in collected],
        [each.rewards for each in collected],
        [each.terminated for each in collected],
        [each.final_observation for each in collected],
    )
    advantage = inner_advantages(meta_policy.policy, batch, meta_policy.manifest.adaptation)

    def gradient() -> object:
        leaves = {name: value.clone().requires_grad_() for name, value in meta_policy.parameters.items()}
        loss = reinforce_loss(leaves, meta_policy.policy, batch, advantage)
        return torch.autograd.grad(loss, list(leaves.values()))

    return gradient
