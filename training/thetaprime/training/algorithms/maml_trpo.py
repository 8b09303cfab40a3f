"""MAML for reinforcement learning: REINFORCE inside, TRPO outside (Finn et al. 2017, Algorithm 3).

One iteration, for T tasks drawn from the distribution:

    for each inner step k:   collect D_k with θ_k   and take   θ_{k+1} = θ_k − α ∇L(θ_k; D_k)
    collect the query trajectories D′ with θ′, the policy after the last inner step
    minimize over θ   mean over tasks of  −E_D′[ π_θ′(a|o) / π_old(a|o) · A ]
             subject to   mean KL(π_old ‖ π_θ′) ≤ δ   over D′

θ′ is a function of θ throughout: both the objective's gradient and the Fisher-vector product go through the adaptation.
Without inner steps θ′ = θ, and this is TRPO over all tasks: what the comparisons are trained with. With
`multi_step_loss` the policies after earlier steps are judged too, by the trajectories that the next step learns from.
"""

from collections.abc import Sequence

import torch
from torch.distributions import Distribution

from thetaprime.models import Parameters
from thetaprime.training.algorithms.objective import MetaObjective, log_ratio
from thetaprime.training.sampling.meta_batch import TaskData


class SurrogateObjective(MetaObjective):
    """−E[π_θ′ / π_old · A], averaged over what the task is judged by."""

    def task_loss(self, path: Sequence[Parameters], adapted: Sequence[Distribution], task: TaskData) -> torch.Tensor:
        """The loss of one task."""
        losses = [
            -(log_ratio(policy, each).exp() * each.advantages).mean()
            for policy, each in zip(adapted, task.judged, strict=True)
        ]
        return torch.stack(losses).mean()
