"""MAML by DiCE: the infinitely differentiable Monte Carlo estimator, in the inner and the outer loss.

DiCE (Foerster et al. 2018, Eq. 4) writes an objective so that its derivatives of every order estimate those of the
expected objective: each term is multiplied by □(W) = exp(Σ_W log π − stop(Σ_W log π)), of value 1, over the actions W
that led to it. With advantages instead of returns (Loaded DiCE; Farquhar et al. 2019, Eq. 12):

    L(θ) = −mean over steps of  [ □(a_1 … a_t) − □(a_1 … a_{t−1}) ] · A_t
    inner   θ_{k+1} = θ_k − α ∇L(θ_k; D_k)        outer   minimize over θ  mean over tasks of  L(θ′; D′)

The inner loss is `reinforce_loss` with curvature "dice". The query's W leaves out the support's actions: the inner □
counts how θ changes the support, and so θ′. (E-MAML counts the same in another way; both together would count it
twice.)

Away from the θ that sampled, stop(·) becomes the sampling policy's, and □ an importance weight: the outer L is then
J(π_old) − J(π_θ′), by the performance difference lemma (Kakade & Langford 2002). `adaptation.dice_decay` bounds the
variance of the weights' product over time, in both losses.

Adam minimizes L while the KL allows. Without inner steps this is REINFORCE with importance weights.
"""

from collections.abc import Sequence

import torch
from torch.distributions import Distribution

from thetaprime.models import Parameters
from thetaprime.models.trajectories import decayed_past
from thetaprime.training.algorithms.adam import adam_update
from thetaprime.training.algorithms.maml_trpo import MAML
from thetaprime.training.algorithms.objective import MetaObjective, MetaUpdate, log_ratio
from thetaprime.training.sampling.sampler import Collected, TaskData


class DiCE(MAML):
    """Samples and adapts as MAML does; has □ in the inner and the outer loss, under Adam."""

    def inner_weights(self, theta: Parameters, support: Collected) -> torch.Tensor:
        """[S]: the importance weight of the actions up to each step, times A, as a constant."""
        with torch.no_grad():
            policy = self.policy.distribution(theta, support.batch.observations)
            past, here = self._log_weights(policy, support)
            return (past + here).exp() * support.advantages

    def task_loss(self, path: Sequence[Parameters], adapted: Sequence[Distribution], task: TaskData) -> torch.Tensor:
        """−[□(≤ t) − □(< t)] · A, the mean over the trajectories that judge one task."""
        losses = []
        for policy, query in zip(adapted, task.judged, strict=True):
            past, here = self._log_weights(policy, query)
            losses.append(-(past.exp() * (here.exp() - 1.0) * query.advantages).mean())
        return torch.stack(losses).mean()

    def meta_update(self, objective: MetaObjective) -> MetaUpdate:
        """Takes epochs of Adam on the meta-batch."""
        update, self.optimizer_state = adam_update(objective, self.optimizer_state)
        return update

    def _log_weights(self, policy: Distribution, collected: Collected) -> tuple[torch.Tensor, torch.Tensor]:
        """Two [S]: the log weight of the earlier actions (decayed), and of the step's own action."""
        here = log_ratio(policy, collected)
        return decayed_past(collected.batch, here, self.config.adaptation.dice_decay), here
