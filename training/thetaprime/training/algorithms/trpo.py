"""The step of Trust Region Policy Optimization (Schulman et al. 2015), for any objective and any Fisher product."""

import dataclasses
from collections.abc import Callable

import torch


@dataclasses.dataclass(frozen=True)
class StepOutcome:
    """What a trust-region step did.

    Attributes:
        position: [P] the point arrived at: the start, where the step was rejected.
        accepted: whether it moved.
        improvement: decrease of the loss.
        kl_divergence: at the point arrived at.
        backtracks: halvings (by `ratio`) of the step before it was accepted.
    """

    position: torch.Tensor
    accepted: bool
    improvement: float
    kl_divergence: float
    backtracks: int


def conjugate_gradient(
    product: Callable[[torch.Tensor], torch.Tensor], target: torch.Tensor, *, iterations: int, tolerance: float = 1e-10
) -> tuple[torch.Tensor, torch.Tensor]:
    """Solves A x = b for a symmetric positive definite A that is known by its products.

    Args:
        product: v [P] -> A v [P].
        target: b [P].
        iterations: at most.
        tolerance: on the squared residual.

    Returns:
        x [P], and what is left of b, b − A x [P].
    """
    solution = torch.zeros_like(target)
    residual = target.clone()
    direction = target.clone()
    squared = residual.dot(residual)
    for _ in range(iterations):
        if float(squared) < tolerance:
            break
        along = product(direction)
        step = squared / direction.dot(along)
        solution += step * direction
        residual -= step * along
        previous, squared = squared, residual.dot(residual)
        direction = residual + squared / previous * direction
    return solution, residual


def trust_region_step(
    start: torch.Tensor,
    loss: float,
    gradient: torch.Tensor,
    fisher_product: Callable[[torch.Tensor], torch.Tensor],
    evaluate: Callable[[torch.Tensor], tuple[float, float]],
    *,
    max_kl: float,
    damping: float = 1e-5,
    iterations: int = 10,
    ratio: float = 0.8,
    backtracks: int = 15,
) -> StepOutcome:
    """Goes along the natural gradient as far as the trust region allows, and only if that lowers the loss.

    Args:
        start: [P].
        loss: at `start`.
        gradient: [P] of the loss at `start`.
        fisher_product: v [P] -> F v [P], the Hessian of the mean KL at `start`.
        evaluate: position [P] -> (loss, mean KL from `start`).
        max_kl: δ, the trust region.
        damping: added to the diagonal of F.
        iterations: of conjugate gradient.
        ratio: shrinks the step at each backtrack.
        backtracks: at most, after which the step is rejected.
    """
    natural, left = conjugate_gradient(lambda v: fisher_product(v) + damping * v, gradient, iterations=iterations)
    # F x without another product: x solves F x = g up to what is left of g.
    curvature = float(natural.dot(gradient - left))
    rejected = StepOutcome(start, accepted=False, improvement=0.0, kl_divergence=0.0, backtracks=backtracks)
    if not curvature > 0.0:
        return rejected
    longest = (2 * max_kl / curvature) ** 0.5
    for attempt in range(backtracks):
        position = start - ratio**attempt * longest * natural
        there, kl = evaluate(position)
        if there < loss and kl <= max_kl:
            return StepOutcome(position, accepted=True, improvement=loss - there, kl_divergence=kl, backtracks=attempt)
    return rejected
