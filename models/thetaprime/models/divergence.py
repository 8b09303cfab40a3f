"""Mean KL divergence and entropy of action distributions over some observations.

The noise of a Gaussian policy is one for all observations, so its part is computed once, and only the means are
compared at each observation.
"""

import math
from typing import Final

import torch
from torch.distributions import kl_divergence

from thetaprime.models.policy import Policy

_ENTROPY: Final = 0.5 * math.log(2.0 * math.pi * math.e)

Outputs = tuple[torch.Tensor, ...]
"""As from `Policy.outputs`, at B observations."""


@torch.no_grad()
def mean_kl_divergence(policy: Policy, old: Outputs, new: Outputs) -> float:
    """Mean of KL(old ‖ new) over the observations, in nats."""
    if not policy.continuous:
        return float(kl_divergence(policy.distribution_of(old), policy.distribution_of(new)).mean())
    (old_mean, old_log_std), (new_mean, new_log_std) = old, new
    # KL = Σ_d log(σ'/σ) + (σ² + (μ − μ')²) / 2σ'² − 1/2, for independent dimensions d.
    squares = (old_mean - new_mean).square().mean(0).double()
    difference = (new_log_std - old_log_std).double()
    variances = (-2.0 * difference).exp() + squares * (-2.0 * new_log_std.double()).exp()
    return float((difference + 0.5 * variances - 0.5).sum())


@torch.no_grad()
def mean_entropy(policy: Policy, outputs: Outputs) -> float:
    """Mean entropy over the observations, in nats."""
    if not policy.continuous:
        return float(policy.distribution_of(outputs).entropy().mean())
    log_std = outputs[1].double()
    return float(log_std.sum()) + _ENTROPY * len(log_std)
