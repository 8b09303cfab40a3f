"""One pass of a policy over a batch, for all that asks for it: evidence, gradient, summary."""

import dataclasses
from collections.abc import Collection

import torch

from thetaprime.models.batch import TrajectoryBatch
from thetaprime.models.kernels import LayerGradient
from thetaprime.models.parameters import Parameters
from thetaprime.models.policy import Policy


@dataclasses.dataclass(frozen=True, eq=False)
class ForwardPass:
    """π_θ at every observation of a batch, with what one gradient needs of the way there.

    Attributes:
        leaves: those parameters that a gradient is wanted of.
        outputs: as `Policy.outputs` gives them, differentiable in `leaves` once.
        noted: takes what a gradient comes by in each layer that it passes; None where that was not asked for.
    """

    leaves: Parameters
    outputs: tuple[torch.Tensor, ...]
    noted: list[LayerGradient] | None = None

    @property
    def values(self) -> tuple[torch.Tensor, ...]:
        """The outputs as constants."""
        return tuple(output.detach() for output in self.outputs)

    def gradient(self, loss: torch.Tensor) -> tuple[Parameters, tuple[LayerGradient, ...]]:
        """Of a scalar that was made of `outputs`. What it needed is given up.

        Returns:
            By the names of `leaves`; and what it came by, where that is noted.
        """
        gradients = torch.autograd.grad(loss, list(self.leaves.values()), materialize_grads=True)
        return dict(zip(self.leaves, gradients, strict=True)), tuple(self.noted or ())


def forward_pass(
    policy: Policy, parameters: Parameters, batch: TrajectoryBatch, moving: Collection[str], *, layers: bool = False
) -> ForwardPass:
    """Runs a policy over a batch.

    Args:
        policy: the network.
        parameters: θ.
        batch: whose observations.
        moving: names of the parameters that a gradient is wanted of.
        layers: note the way through each layer, for `trajectory_shares`.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items() if name in moving}
    noted: list[LayerGradient] | None = [] if layers else None
    # A caller who wants no gradients elsewhere wants this one.
    with torch.enable_grad():
        outputs = policy.outputs({**parameters, **leaves}, batch.observations, noted)
    return ForwardPass(leaves, outputs, noted)
