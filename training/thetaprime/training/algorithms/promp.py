"""ProMP: proximal meta-policy search (Rothfuss et al. 2019, Algorithm 1).

    inner     θ_{k+1} = θ_k + α ∇ E_D_k[ π_θk(a|o) / π_old,k(a|o) · A ]                                       (J^LR)
    outer     maximize over θ   mean over tasks of  J^clip(θ′) − η · mean over k of KL(π_old,k ‖ π_θk)        (Eq. 12)
              J^clip(θ′) = E_D′[ min( r A, clip(r, 1 − ε, 1 + ε) A ) ],   r = π_θ′(a|o) / π_old(a|o)           (Eq. 11)

with π_old the policy that collected: π_old,k the support D_k that step k learns from, π_old the query D′. The inner
ratios make the curvature the low-variance one (LVC), which counts how θ changes what is sampled; and they make the
objective a function of θ whose gradient autograd gives exactly, also where θ has left the point that collected. The
penalty keeps it near there, where the support trajectories still tell what adapting would do.

Minimized by Adam, several epochs on the same trajectories, as far as the KL allows (`AdamLoop`). Without inner steps
this is PPO over all tasks. With `multi_step_loss` every policy that is judged has a clipped loss of its own.
"""

from collections.abc import Sequence

import torch
from torch.distributions import Distribution, kl_divergence

from thetaprime.models import Parameters
from thetaprime.training.algorithms.objective import MetaObjective, log_ratio
from thetaprime.training.sampling.meta_batch import Collected, TaskData


class ProMPObjective(MetaObjective):
    """−J^clip + η · KL on the support."""

    def inner_weights(self, parameters: Parameters, collected: Collected) -> torch.Tensor:
        """[S]: π_θk / π_old,k · A, as a constant: the inner loss multiplies it by a ratio of value 1, to J^LR."""
        with torch.no_grad():
            policy = self._policy.distribution(parameters, collected.batch.observations)
            return log_ratio(policy, collected).exp() * collected.advantages

    def task_loss(self, path: Sequence[Parameters], adapted: Sequence[Distribution], task: TaskData) -> torch.Tensor:
        """The loss of one task."""
        clip_range = self._config.clip_range
        losses = []
        for policy, each in zip(adapted, task.judged, strict=True):
            ratio = log_ratio(policy, each).exp()
            clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
            losses.append(-torch.minimum(ratio * each.advantages, clipped * each.advantages).mean())
        loss = torch.stack(losses).mean()
        if not task.support:
            return loss
        divergences = [kl_divergence(each.behavior, self.distribution(path, each)).mean() for each in task.support]
        return loss + self._config.inner_kl_penalty * torch.stack(divergences).mean()
