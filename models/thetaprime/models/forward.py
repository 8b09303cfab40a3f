"""One pass of a policy over a batch, for all that asks for it: evidence, gradient, summary."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch.autograd.graph import GradientEdge, get_gradient_edge

from thetaprime.models.batch import TrajectoryBatch
from thetaprime.models.parameters import Parameters
from thetaprime.models.policy import Policy


@dataclasses.dataclass(frozen=True, eq=False)
class LayerGradient:
    """What a gradient came by on its way through one layer, z = W x + b.

    Attributes:
        inputs: [S, I]: x at each step.
        outputs: [S, O]: the loss's derivative by z at each step.
    """

    inputs: torch.Tensor
    outputs: torch.Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class ForwardPass:
    """π_θ at every observation of a batch, with what one gradient needs of the way there.

    Attributes:
        leaves: those parameters that a gradient is wanted of.
        outputs: as `Policy.outputs` gives them, differentiable in `leaves` once.
        layers: of each layer, what went into it and where a gradient passes what came out; empty where that was not
            asked for.
    """

    leaves: Parameters
    outputs: tuple[torch.Tensor, ...]
    layers: Sequence[tuple[torch.Tensor, GradientEdge]] = ()

    @property
    def values(self) -> tuple[torch.Tensor, ...]:
        """The outputs as constants."""
        return tuple(output.detach() for output in self.outputs)

    def gradient(self, loss: torch.Tensor) -> tuple[Parameters, tuple[LayerGradient, ...]]:
        """Of a scalar that was made of `outputs`. What it needed is given up.

        Returns:
            By the names of `leaves`; and what it came by, for each of `layers`.
        """
        sought: list[Any] = [*self.leaves.values(), *(edge for _, edge in self.layers)]
        gradients = torch.autograd.grad(loss, sought, allow_unused=True)
        found = {
            name: torch.zeros_like(value) if gradient is None else gradient
            for (name, value), gradient in zip(self.leaves.items(), gradients, strict=False)
        }
        passed = zip(self.layers, gradients[len(self.leaves) :], strict=True)
        return found, tuple(LayerGradient(inputs, outputs) for (inputs, _), outputs in passed)


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
    passed: list[tuple[torch.Tensor, torch.Tensor]] = []
    # A caller who wants no gradients elsewhere wants this one.
    with torch.enable_grad():
        outputs = policy.outputs({**parameters, **leaves}, batch.observations, passed if layers else None)
    # Of what came out the gradient alone is wanted: an edge of the graph holds no array. A layer whose outputs do not
    # depend on what moves has none.
    noted = [(inputs.detach(), get_gradient_edge(after)) for inputs, after in passed if after.requires_grad]
    return ForwardPass(leaves, outputs, noted)
