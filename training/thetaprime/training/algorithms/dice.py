"""MAML by DiCE: the infinitely differentiable Monte-Carlo estimator, in both stages.

DiCE (Foerster et al. 2018, Eq. 4) writes an objective so that its derivatives of every order are estimators of the
expected objective's: each term is multiplied by □(W) = exp(Σ_W log π − stop(Σ_W log π)), of value 1, over the actions W
that led to it. With advantages instead of returns (Loaded DiCE; Farquhar et al. 2019, Eq. 12):

    L(θ) = −mean over steps of  [ □(a_1 … a_t) − □(a_1 … a_{t−1}) ] · A_t
    inner   θ_{k+1} = θ_k − α ∇L(θ_k; D_k)        outer   minimize over θ  mean over tasks of  L(θ′; D′)

The inner stage is `reinforce_loss` with curvature "dice"; of the outer stage, the gradient is taken through it. The
support's actions are not among the query's W: the inner □ has counted already how θ changes what is sampled, and so
what θ′ is. (E-MAML counts that in the other way; both together would count it twice.)

Away from the θ that collected, stop(·) becomes the collecting policy's, and □ an importance weight: the outer L is then
J(π_old) − J(π_θ′) itself, by the performance difference lemma (Kakade & Langford 2002). `adaptation.dice_decay` bounds
the variance of its product over time in both stages.

Minimized by Adam, as far as the KL allows (`AdamLoop`). Without inner steps this is REINFORCE with those weights.
"""

from collections.abc import Sequence

import torch
from torch.distributions import Distribution

from thetaprime.models import Parameters
from thetaprime.models.advantages import decayed_past
from thetaprime.training.algorithms.objective import MetaObjective, log_ratio
from thetaprime.training.sampling.meta_batch import Collected, TaskData


class DiceObjective(MetaObjective):
    """−[□(≤ t) − □(< t)] · A, averaged over what the task is judged by."""

    def inner_weights(self, parameters: Parameters, collected: Collected) -> torch.Tensor:
        """[S]: the importance weight of the actions so far, times A, as a constant."""
        with torch.no_grad():
            policy = self._policy.distribution(parameters, collected.batch.observations)
            past, here = self._log_weights(policy, collected)
            return (past + here).exp() * collected.advantages

    def task_loss(self, path: Sequence[Parameters], adapted: Sequence[Distribution], task: TaskData) -> torch.Tensor:
        """The loss of one task."""
        losses = []
        for policy, each in zip(adapted, task.judged, strict=True):
            past, here = self._log_weights(policy, each)
            losses.append(-(past.exp() * (here.exp() - 1.0) * each.advantages).mean())
        return torch.stack(losses).mean()

    def _log_weights(self, policy: Distribution, collected: Collected) -> tuple[torch.Tensor, torch.Tensor]:
        """Two [S]: log weight of the earlier actions (decayed), and of the step's own."""
        here = log_ratio(policy, collected)
        return decayed_past(collected.batch, here, self._config.adaptation.dice_decay), here
