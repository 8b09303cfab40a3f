"""One pass of a policy over a batch, for all that asks for it: evidence, gradient, summary."""

import dataclasses
from collections.abc import Collection

import torch

from thetaprime.models.batch import TrajectoryBatch
from thetaprime.models.parameters import Parameters
from thetaprime.models.policy import Policy


@dataclasses.dataclass(frozen=True, eq=False)
class ForwardPass:
    """π_θ at every observation of a batch, with what one gradient needs of the way there.

    Attributes:
        leaves: those parameters that a gradient is wanted of.
        outputs: as `Policy.outputs` gives them, differentiable in `leaves` once.
    """

    leaves: Parameters
    outputs: tuple[torch.Tensor, ...]

    @property
    def values(self) -> tuple[torch.Tensor, ...]:
        """The outputs as constants."""
        return tuple(output.detach() for output in self.outputs)

    def gradient(self, loss: torch.Tensor) -> Parameters:
        """Of a scalar that was made of `outputs`; by the names of `leaves`. What it needed is given up."""
        gradients = torch.autograd.grad(loss, list(self.leaves.values()), materialize_grads=True)
        return dict(zip(self.leaves, gradients, strict=True))


def forward_pass(
    policy: Policy, parameters: Parameters, batch: TrajectoryBatch, moving: Collection[str]
) -> ForwardPass:
    """Runs a policy over a batch.

    Args:
        policy: the network.
        parameters: θ.
        batch: whose observations.
        moving: names of the parameters that a gradient is wanted of.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items() if name in moving}
    # A caller who wants no gradients elsewhere wants this one.
    with torch.enable_grad():
        return ForwardPass(leaves, policy.outputs({**parameters, **leaves}, batch.observations))
