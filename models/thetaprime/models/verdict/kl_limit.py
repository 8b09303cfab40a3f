"""The limit on the length of a step, as a KL divergence."""

from typing import Final, NamedTuple

import torch

from thetaprime.models.divergence import mean_kl_divergence
from thetaprime.models.parameters import Parameters, interpolate
from thetaprime.models.policy import Policy

_OBSERVATIONS: Final = 1024
_BISECTIONS: Final = 20


class LimitedStep(NamedTuple):
    """A step within a limit.

    Attributes:
        part: the part of the step that is within the limit, from 0 to 1.
        kl_divergence: of the whole step, in nats.
    """

    part: float
    kl_divergence: float


@torch.no_grad()
def within_kl(
    policy: Policy, start: Parameters, end: Parameters, observations: torch.Tensor, limit: float
) -> LimitedStep:
    """Finds by bisection how far a step may lead.

    Args:
        policy: the network.
        start: θ_k.
        end: θ_{k+1}, as proposed.
        observations: [S, O]; at most 1,024 of them count, evenly spread.
        limit: highest mean KL(π_start ‖ π) there, in nats.
    """
    observations = observations[:: -(-len(observations) // _OBSERVATIONS)]
    old = policy.outputs(start, observations)

    def divergence(part: float) -> float:
        moved = end if part == 1.0 else interpolate(start, end, part)
        return mean_kl_divergence(policy, old, policy.outputs(moved, observations))

    whole = divergence(1.0)
    if whole <= limit:
        return LimitedStep(1.0, whole)
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if divergence(middle) <= limit else (low, middle)
    return LimitedStep(low, whole)
