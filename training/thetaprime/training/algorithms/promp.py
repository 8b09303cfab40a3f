"""ProMP: proximal meta-policy search (Rothfuss et al. 2019, Algorithm 1).

    inner     θ_{k+1} = θ_k + α ∇ E_D_k[ π_θk(a|o) / π_old,k(a|o) · A ]                                       (J^LR)
    outer     maximize over θ   mean over tasks of  J^clip(θ′) − η · mean over k of KL(π_old,k ‖ π_θk)        (Eq. 12)
              J^clip(θ′) = E_D′[ min( r A, clip(r, 1 − ε, 1 + ε) A ) ],   r = π_θ′(a|o) / π_old(a|o)           (Eq. 11)

π_old,k sampled the support D_k of inner step k, and π_old sampled the query D′. The inner ratios give the low-variance
curvature (LVC), which counts how θ changes the samples. They also make the objective a function of θ whose gradient is
exact at any θ, not only at the θ that sampled. The penalty keeps θ near that point, where the support still predicts
the adaptation.

Adam takes several epochs on the same trajectories, while the KL allows. Without inner steps this is PPO over all tasks.
With `multi_step_loss`, each policy that is judged has its own clipped loss.
"""

from collections.abc import Sequence

import torch
from torch.distributions import Distribution, kl_divergence

from thetaprime.models import Parameters
from thetaprime.training.algorithms.adam import adam_update
from thetaprime.training.algorithms.maml_trpo import MAML
from thetaprime.training.algorithms.objective import MetaObjective, MetaUpdate, log_ratio, policy_at
from thetaprime.training.sampling.sampler import Collected, TaskData


class ProMP(MAML):
    """Samples and adapts as MAML does; has ratios in the inner loss and a clipped outer loss under Adam."""

    def inner_weights(self, theta: Parameters, support: Collected) -> torch.Tensor:
        """[S]: π_θk / π_old,k · A, as a constant. The inner loss multiplies it by a ratio of value 1, to J^LR."""
        with torch.no_grad():
            policy = self.policy.distribution(theta, support.batch.observations)
            return log_ratio(policy, support).exp() * support.advantages

    def task_loss(self, path: Sequence[Parameters], adapted: Sequence[Distribution], task: TaskData) -> torch.Tensor:
        """−J^clip(θ′) + η · KL on the support, for one task."""
        clip_range = self.config.clip_range
        losses = []
        for policy, query in zip(adapted, task.judged, strict=True):
            ratio = log_ratio(policy, query).exp()
            clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
            losses.append(-torch.minimum(ratio * query.advantages, clipped * query.advantages).mean())
        loss = torch.stack(losses).mean()
        if not task.support:
            return loss
        divergences = [kl_divergence(each.behavior, policy_at(self.policy, path, each)).mean() for each in task.support]
        return loss + self.config.inner_kl_penalty * torch.stack(divergences).mean()

    def meta_update(self, objective: MetaObjective) -> MetaUpdate:
        """Takes epochs of Adam on the meta-batch."""
        update, self.optimizer_state = adam_update(objective, self.optimizer_state)
        return update
