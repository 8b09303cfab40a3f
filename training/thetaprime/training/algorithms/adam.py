"""Several steps of Adam an iteration (Kingma & Ba 2015), none of which may carry the adapted policies too far.

A step of Adam has the length of its learning rate whatever the gradient's, and adaptation multiplies it: five steps of
5e-4 have been seen to move the adapted policies by a KL of 23, which lost all that had been learned. So every step is
measured before it counts, as in a trust region.
"""

from collections.abc import Sequence
from typing import Final

import torch

from thetaprime.models import Parameters, Policy
from thetaprime.training.algorithms.flat import flatten, unflatten
from thetaprime.training.algorithms.objective import MetaObjective
from thetaprime.training.algorithms.outer_loop import OuterStep
from thetaprime.training.config import TrainConfig
from thetaprime.training.sampling.meta_batch import TaskData
from thetaprime.training.sampling.parallel import MapTasks

_KEYS: Final = {"count": "step", "moment": "exp_avg", "square": "exp_avg_sq"}
_HALVINGS: Final = 8


class AdamLoop:
    """Minimizes an objective by Adam, as long as mean KL(π_old ‖ π_θ′) ≤ δ.

    An update that ends beyond δ is taken back and halved until it ends within, and undone where eight halvings do not
    suffice; either way the iteration's epochs are over. Adam's moments keep the gradient: they are about the loss at a
    point that θ was at, and with them the steps become shorter.

    The learned step sizes' gradient is the first epoch's, at the θ that collected the trajectories.

    Args:
        objective: what to minimize.
        policy: the network.
        config: of the run.
    """

    def __init__(self, objective: type[MetaObjective], policy: Policy, config: TrainConfig) -> None:
        self._objective, self._policy, self._config = objective, policy, config
        self._state: Parameters = {}

    def step(
        self, parameters: Parameters, step_sizes: Parameters | None, data: Sequence[TaskData], each_task: MapTasks
    ) -> OuterStep:
        """As `OuterLoop.step`."""
        objective = self._objective(self._policy, parameters, step_sizes, self._config, data, each_task)
        position = flatten(parameters)
        slope = first = objective.gradient(position)
        accepted, loss, divergence = False, first.loss, 0.0
        for epoch in range(self._config.outer_epochs):
            if epoch:
                slope = objective.gradient(position)
            if not bool(slope.theta.isfinite().all()):
                break
            update = self._update(slope.theta)
            for halvings in range(_HALVINGS + 1):
                tried = position + 0.5**halvings * update
                loss_there, divergence_there = objective.evaluate(tried)
                # Written so that a divergence that is not a number is beyond it too.
                within = divergence_there <= self._config.max_kl
                if within:
                    accepted, position, loss, divergence = True, tried, loss_there, divergence_there
                    break
            if halvings or not within:
                break
        return OuterStep(
            parameters=unflatten(position, parameters),
            step_size_gradient=first.step_sizes,
            accepted=accepted,
            improvement=first.loss - loss,
            kl_divergence=divergence,
        )

    def _update(self, gradient: torch.Tensor) -> torch.Tensor:
        """[P]: what Adam adds to θ. It does not depend on θ, so any point serves."""
        point = torch.zeros_like(gradient)
        optimizer = torch.optim.Adam([point], lr=self._config.outer_lr)
        if self._state:
            optimizer.state[point] = {key: self._state[name] for name, key in _KEYS.items()}
        point.grad = gradient
        optimizer.step()
        self._state = {name: optimizer.state[point][key] for name, key in _KEYS.items()}
        return point

    def state(self) -> Parameters:
        """Adam's moments [P], in the order of `flatten`, and its count of steps."""
        return {name: value.clone() for name, value in self._state.items()}

    def load(self, state: Parameters) -> None:
        """Takes up where `state` left off."""
        self._state = {name: value.clone() for name, value in state.items()}
