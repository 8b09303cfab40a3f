"""Products with the Fisher information of a policy, through whatever made its parameters."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import torch
from torch.distributions import kl_divergence

from thetaprime.models import Policy
from thetaprime.training.sampling.parallel import MapTasks, in_turn

Outputs = tuple[torch.Tensor, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class _Linearized:
    """One task's graphs: the outputs, J of the outputs transposed, and the KL's gradient in the outputs."""

    outputs: Outputs
    cotangents: Outputs
    pulled_back: torch.Tensor
    leaves: Outputs
    slope: Outputs


class FisherProduct:
    """v -> F v with F the Hessian at θ of the mean over tasks of mean KL(π_θ ‖ π_·).

    With J the Jacobian of the policy's outputs in θ and M the KL's Hessian in the outputs, F = Jᵀ M J. The terms in
    the second derivative of the outputs vanish, since the KL's slope is zero where both policies are the same; so this
    is exact there, and spares one order of differentiation through the adaptation. The graphs are built once:
    each product costs two backward passes a task.

    Args:
        policy: the network.
        outputs: for each task, θ [P] -> the policy's outputs, differentiable twice.
        theta: [P].
        each_task: applies a function to each task, perhaps in parallel.
    """

    def __init__(
        self,
        policy: Policy,
        outputs: Sequence[Callable[[torch.Tensor], Outputs]],
        theta: torch.Tensor,
        each_task: MapTasks = in_turn,
    ) -> None:
        self._point = theta.detach().requires_grad_()
        self._each_task = each_task
        self._tasks = each_task(lambda each: self._linearize(policy, each(self._point)), outputs)

    def _linearize(self, policy: Policy, outputs: Outputs) -> _Linearized:
        # Jᵀu is linear in u, so its derivative in u is J, whatever u is: forward mode by two backward passes.
        cotangents = tuple(torch.zeros_like(each, requires_grad=True) for each in outputs)
        (pulled_back,) = torch.autograd.grad(outputs, self._point, cotangents, create_graph=True)
        leaves = tuple(each.detach().requires_grad_() for each in outputs)
        here = policy.distribution_of(tuple(each.detach() for each in outputs))
        divergence = kl_divergence(here, policy.distribution_of(leaves)).mean()
        slope = torch.autograd.grad(divergence, leaves, create_graph=True)
        return _Linearized(outputs, cotangents, pulled_back, leaves, slope)

    def __call__(self, vector: torch.Tensor) -> torch.Tensor:
        """F v, [P]."""
        return torch.stack(self._each_task(functools.partial(self._product, vector), self._tasks)).mean(0)

    def _product(self, vector: torch.Tensor, task: _Linearized) -> torch.Tensor:
        pushed = torch.autograd.grad(task.pulled_back, task.cotangents, vector, retain_graph=True)
        weighed = torch.autograd.grad(task.slope, task.leaves, pushed, retain_graph=True)
        return torch.autograd.grad(task.outputs, self._point, weighed, retain_graph=True)[0]
