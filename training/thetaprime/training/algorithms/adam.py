"""Steps of Adam on a meta-objective (Kingma & Ba 2015), bounded by the KL divergence of the adapted policies.

A step of Adam has the length of its learning rate, however small the gradient, and adaptation multiplies the change of
the policy: five steps of 5e-4 moved the adapted policies by a KL of 23 and lost all that had been learned. So each step
is measured before it counts, as in a trust region.
"""

from typing import Final

import torch

from thetaprime.models import Parameters
from thetaprime.training.algorithms.objective import MetaObjective, MetaUpdate, SearchResult

_KEYS: Final = {"count": "step", "moment": "exp_avg", "square": "exp_avg_sq"}
_HALVINGS: Final = 8


def adam_update(objective: MetaObjective, state: Parameters) -> tuple[MetaUpdate, Parameters]:
    """Minimizes a meta-objective by `outer_epochs` steps of Adam while mean KL(π_old ‖ π_θ′) ≤ δ.

    A step that ends beyond δ is halved until it ends within, and undone where eight halvings do not suffice. Either way
    it is the iteration's last step. Adam's moments keep its gradient: θ was at the point where it was measured, and
    with it the next steps become shorter.

    Args:
        objective: the algorithm's, with its configuration.
        state: Adam's moments [P] and its count of steps; empty before the first step.

    Returns:
        The update, with the step sizes' gradient at the old θ; and Adam's next state.
    """
    config = objective.algorithm.config
    position = objective.theta
    gradient = first = objective.gradient(position)
    accepted, loss, divergence = False, first.loss, 0.0
    for epoch in range(config.outer_epochs):
        if epoch:
            gradient = objective.gradient(position)
        if not bool(gradient.theta.isfinite().all()):
            break
        step, state = _adam_step(gradient.theta, state, config.outer_lr)
        for halvings in range(_HALVINGS + 1):
            tried = position + 0.5**halvings * step
            loss_there, divergence_there = objective.evaluate(tried)
            within = divergence_there <= config.max_kl  # false for NaN, too
            if within:
                accepted, position, loss, divergence = True, tried, loss_there, divergence_there
                break
        if halvings or not within:
            break
    return objective.updated(SearchResult(position, accepted, first.loss - loss, divergence), first), state


def _adam_step(gradient: torch.Tensor, state: Parameters, learning_rate: float) -> tuple[torch.Tensor, Parameters]:
    """The vector [P] that Adam adds to θ, which does not depend on θ, and Adam's next state."""
    point = torch.zeros_like(gradient)
    optimizer = torch.optim.Adam([point], lr=learning_rate)
    if state:
        optimizer.state[point] = {key: state[name].clone() for name, key in _KEYS.items()}
    point.grad = gradient
    optimizer.step()
    return point, {name: optimizer.state[point][key] for name, key in _KEYS.items()}
