"""A step of TRPO (Schulman et al. 2015): Fisher-vector products, conjugate gradient, line search.

With g the gradient of the meta-objective and F the Hessian at θ of the mean KL, the step solves F x = g by conjugate
gradient, goes along −x to the border of the trust region in the quadratic model, ½ xᵀFx ≤ δ, and shortens until the
loss falls and the true KL is at most δ.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Final

import torch
from torch.distributions import kl_divergence

from thetaprime.models import AdaptationSpec
from thetaprime.training.algorithms.objective import MetaObjective, SearchResult
from thetaprime.training.sampling.sampler import StackedTasks, stack_tasks

# So many tasks share one graph. The network is small: for one task, each operation costs more to start than to run.
_TASKS_AT_ONCE: Final = 10

Outputs = tuple[torch.Tensor, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class _Linearized:
    """The graphs of a group of tasks: the policies' outputs, their Jᵀ, and the KL's gradient in the outputs."""

    outputs: Outputs
    cotangents: Outputs
    pulled_back: torch.Tensor
    leaves: Outputs
    slope: Outputs


class FisherProduct:
    """v -> F v, with F the Hessian at θ of the mean over tasks of KL(π_θ′ ‖ π_·), through the adaptation.

    With J the Jacobian in θ of the adapted policies' outputs and M the KL's Hessian in the outputs, F = Jᵀ M J. The
    terms in the second derivative of the outputs vanish, because the KL's slope is zero where both policies are equal.
    So the product is exact at θ, and needs one order of differentiation through the adaptation less. The graphs are
    built once: each product costs two backward passes.

    A part of each task's trajectories serves for it, support and query alike. A part of the tasks would not: F knows no
    curvature along the directions that only the other tasks use, and the step would go too far along those. On
    navigation the line search then shortened each step ten times, and the loss fell half as far at the same KL.

    Args:
        objective: at whose θ; `fisher_fraction` of each task's trajectories are used.
    """

    def __init__(self, objective: MetaObjective) -> None:
        config = objective.algorithm.config
        parts = [task.first(config.fisher_fraction) for task in objective.meta_batch]
        size = _TASKS_AT_ONCE if _separable(config.adaptation) else 1
        groups = [stack_tasks(parts[start : start + size]) for start in range(0, len(parts), size)]
        self._point = objective.theta.detach().requires_grad_()
        self._map_tasks = objective.map_tasks
        self._share = 1.0 / len(parts)
        self._groups = objective.map_tasks(functools.partial(self._linearize, objective), groups)

    def _linearize(self, objective: MetaObjective, group: StackedTasks) -> _Linearized:
        policy, judged = objective.algorithm.policy, group.data.judged
        path = objective.path(self._point, group.data, create_graph=True, copies=group.tasks)
        distributions = [policy.outputs(path[query.inner_step], query.batch.observations) for query in judged]
        outputs = tuple(itertools.chain.from_iterable(distributions))
        # Jᵀu is linear in u, so its derivative in u is J at any u: forward mode by two backward passes.
        cotangents = tuple(torch.zeros_like(each, requires_grad=True) for each in outputs)
        (pulled_back,) = torch.autograd.grad(outputs, self._point, cotangents, create_graph=True)
        leaves = tuple(each.detach().requires_grad_() for each in outputs)
        each = len(leaves) // len(judged)
        by_query = [leaves[start : start + each] for start in range(0, len(leaves), each)]
        divergence = torch.stack(
            [
                (kl_divergence(policy.distribution_of(_detached(here)), policy.distribution_of(here)) * weights).sum()
                for here, weights in zip(by_query, group.weights, strict=True)
            ]
        ).mean()
        slope = torch.autograd.grad(divergence, leaves, create_graph=True)
        return _Linearized(outputs, cotangents, pulled_back, leaves, slope)

    def __call__(self, vector: torch.Tensor) -> torch.Tensor:
        """F v, [P]."""
        products = self._map_tasks(functools.partial(self._product, vector), self._groups)
        return torch.stack(products).sum(0) * self._share

    def _product(self, vector: torch.Tensor, group: _Linearized) -> torch.Tensor:
        pushed = torch.autograd.grad(group.pulled_back, group.cotangents, vector, retain_graph=True)
        weighed = torch.autograd.grad(group.slope, group.leaves, pushed, retain_graph=True)
        return torch.autograd.grad(group.outputs, self._point, weighed, retain_graph=True)[0]


def _separable(adaptation: AdaptationSpec) -> bool:
    """Whether the inner loss of several tasks is the sum of means over each one's steps.

    DiCE's sums along trajectories need each task by itself.
    """
    return adaptation.curvature != "dice"


def _detached(outputs: Outputs) -> Outputs:
    return tuple(each.detach() for each in outputs)


def conjugate_gradient(
    product: Callable[[torch.Tensor], torch.Tensor],
    target: torch.Tensor,
    *,
    iterations: int = 10,
    damping: float = 1e-5,
    tolerance: float = 1e-10,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Solves (A + damping · I) x = b for a symmetric positive definite A that is known by its products.

    Args:
        product: v [P] -> A v [P].
        target: b [P].
        iterations: the most steps.
        damping: added to the diagonal of A.
        tolerance: on the squared residual.

    Returns:
        x [P], and the residual b − (A + damping · I) x [P].
    """
    solution = torch.zeros_like(target)
    residual = target.clone()
    direction = target.clone()
    squared = residual.dot(residual)
    for _ in range(iterations):
        if float(squared) < tolerance:
            break
        along = product(direction) + damping * direction
        step = squared / direction.dot(along)
        solution += step * direction
        residual -= step * along
        previous, squared = squared, residual.dot(residual)
        direction = residual + squared / previous * direction
    return solution, residual


def line_search(
    start: torch.Tensor,
    loss: float,
    direction: torch.Tensor,
    curvature: float,
    evaluate: Callable[[torch.Tensor], tuple[float, float]],
    *,
    max_kl: float,
    ratio: float = 0.8,
    backtracks: int = 15,
) -> SearchResult:
    """Goes against a direction as far as the trust region allows, and only where the loss falls.

    Args:
        start: θ [P].
        loss: at `start`.
        direction: x [P], the natural gradient.
        curvature: xᵀFx.
        evaluate: θ [P] -> (loss, mean KL from `start`).
        max_kl: δ, the trust region in nats.
        ratio: the step is multiplied by it at each backtrack.
        backtracks: the most attempts; then the step is rejected.
    """
    if curvature > 0.0:
        longest = (2 * max_kl / curvature) ** 0.5
        for attempt in range(backtracks):
            theta = start - ratio**attempt * longest * direction
            there, kl = evaluate(theta)
            if there < loss and kl <= max_kl:
                return SearchResult(theta, True, loss - there, kl, attempt)
    return SearchResult(start, accepted=False, improvement=0.0, kl_divergence=0.0, backtracks=backtracks)
