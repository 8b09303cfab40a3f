"""The bare torch gradient, as one would write it by hand: a lower bound for an adaptation round."""

from collections.abc import Callable

import torch
from torch.distributions import Independent, Normal

from thetaprime.models import MetaPolicy, Parameters, TrajectoryBatch, inner_advantages
from thetaprime.server.runtime.tuning import keep_freed_memory

_ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh}


def bare_gradient(meta_policy: MetaPolicy, batch: TrajectoryBatch) -> Callable[[], Parameters]:
    """Returns a function that computes ∇L(θ) by autograd over torch's layers, from tensors and known advantages.

    It uses none of ThetaPrime's kernels. The process keeps freed memory, as the server does: otherwise the gradient
    takes up to twice as long, depending on the allocator's state.
    """
    keep_freed_memory()
    policy = meta_policy.policy
    advantage = inner_advantages(policy, batch, meta_policy.manifest.adaptation)
    activation = _ACTIVATIONS[policy.spec.activation]
    last = len(policy.layer_sizes) - 2
    if not policy.continuous or policy.spec.context_size:
        raise ValueError("expected a Gaussian policy without a context")

    def gradient() -> Parameters:
        leaves = {name: value.clone().requires_grad_() for name, value in meta_policy.parameters.items()}
        hidden = batch.observations
        for index in range(last + 1):
            hidden = torch.nn.functional.linear(
                hidden, leaves[f"layers.{index}.weight"], leaves[f"layers.{index}.bias"]
            )
            if index < last:
                hidden = activation(hidden)
        log_prob = Independent(Normal(hidden, leaves["log_std"].exp()), 1).log_prob(batch.actions)  # type: ignore[no-untyped-call]
        loss = -(log_prob * advantage).mean()
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    return gradient
