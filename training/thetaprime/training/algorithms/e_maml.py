"""E-MAML: credit for exploring (Stadie et al. 2018; Al-Shedivat et al. 2018, Eq. 8; "formulation I" of Rothfuss 2019).

The goal is J(θ) = E_D∼π_θ[ E_D′∼π_θ′[ R(D′) ] ] with θ′ = θ − α ∇L(θ; D). θ moves J in two ways: it changes the update
from given support trajectories D, and it changes which D are sampled:

    ∇J = E[ R(D′) ∇log π_θ′(D′)  +  R(D′) Σ_D ∇log π_θ(a|o) ]

The first term is MAML's. The second credits the support's actions with the return that adaptation to them led to; MAML
leaves it out. Both together are unbiased for the paper's inner loss (curvature "log_prob"). The other curvatures
estimate a part of the second term themselves, and would count it twice. As a loss, for inner steps k:

    mean over tasks of  −E_D′[ π_θ′ / π_old · A ]  −  w Σ_k Σ_D_k log π_θk(a|o) · C_n,     under MAML's trust region

C_n is trajectory n's credit: R(D′) minus a baseline that does not depend on n. The baseline is the mean return of the
*other* trajectories of D_k, plus the gain by adaptation in the *other* tasks. So the credit has no bias, and the
difficulty of a task adds no variance. The variance is still large, because all support actions share one R(D′): on
eight tasks of point-navigation with ten trajectories each, w = 1 lost the policy, and w ≤ 0.03 learned as MAML does.
`exploration_credit` is w: 1 is unbiased, less is a compromise.

Without inner steps there is no support, and this is TRPO over all tasks. With `multi_step_loss` a support batch is
credited with the returns of all later policies that are judged.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch.distributions import Distribution

from thetaprime.models import Parameters, TrajectoryBatch
from thetaprime.models.trajectories import discounted_sums
from thetaprime.training.algorithms.maml_trpo import MAML
from thetaprime.training.algorithms.objective import log_ratio, policy_at
from thetaprime.training.config import TrainConfig
from thetaprime.training.sampling.sampler import TaskData
from thetaprime.training.tasks.protocol import Task, TaskDistribution


class EMAML(MAML):
    """Samples, adapts and updates as MAML does; adds the support's credit to MAML's loss."""

    def sample_meta_batch(
        self,
        distribution: TaskDistribution,
        tasks: Sequence[Task],
        theta: Parameters,
        step_sizes: Parameters | None,
        rng: np.random.Generator,
    ) -> list[TaskData]:
        """Samples as MAML does, and computes each support trajectory's credit."""
        return credited(super().sample_meta_batch(distribution, tasks, theta, step_sizes, rng), self.config)

    def task_loss(self, path: Sequence[Parameters], adapted: Sequence[Distribution], task: TaskData) -> torch.Tensor:
        """MAML's loss, minus the credited log-probabilities of the support's actions, for one task."""
        loss = super().task_loss(path, adapted, task)
        for support in task.support:
            # Relative to π_old, a constant: sums of differences keep more digits than sums of log-probabilities.
            relative = log_ratio(policy_at(self.policy, path, support), support)
            if support.credit is None:
                raise ValueError("the support trajectories have no credit; pass the meta-batch through `credited`")
            loss = loss - (relative * support.credit.to(relative.dtype)).sum()
        return loss


def credited(meta_batch: Sequence[TaskData], config: TrainConfig) -> list[TaskData]:
    """The meta-batch with w · C of each support step, in the surrogate's unit."""
    unit = credit_unit(meta_batch, config.outer_discount)
    credits_of_tasks = exploration_credits(meta_batch, config.outer_discount)
    return [
        TaskData(
            [
                dataclasses.replace(support, credit=config.exploration_credit * unit * credit)
                for support, credit in zip(task.support, credits_of_task, strict=True)
            ],
            task.judged,
        )
        for task, credits_of_task in zip(meta_batch, credits_of_tasks, strict=True)
    ]


def exploration_credits(data: Sequence[TaskData], discount: float) -> list[list[torch.Tensor]]:
    """C of every support step, in the unit of returns.

    Args:
        data: the meta-batch.
        discount: γ of the returns.

    Returns:
        For each task and inner step, [S] float64, constant along a trajectory.
    """
    supports = [[_returns(each.batch, discount) for each in task.support] for task in data]
    judged = [[float(_returns(each.batch, discount).mean()) for each in task.judged] for task in data]
    found = []
    for task, support in enumerate(supports):
        rest = [other for other in range(len(data)) if other != task]
        of_task = []
        for stage, returns in enumerate(support):
            credit = torch.zeros_like(returns)
            for number, each in enumerate(data[task].judged):
                if each.inner_step > data[task].support[stage].inner_step:
                    before = [float(supports[other][stage].mean()) for other in rest]
                    after = [judged[other][number] for other in rest]
                    credit += judged[task][number] - _expected(returns, before, after)
            lengths = torch.tensor(data[task].support[stage].batch.lengths)
            of_task.append((credit / len(data[task].judged)).repeat_interleave(lengths))
        found.append(of_task)
    return found


def _expected(returns: torch.Tensor, before: Sequence[float], after: Sequence[float]) -> torch.Tensor:
    """[N]: the expected return after adaptation, estimated without trajectory n.

    Args:
        returns: [N], of one task's support trajectories.
        before: mean returns of the other tasks' support.
        after: mean returns of the other tasks after adaptation.
    """
    count = len(returns)
    if count == 1:
        return torch.full_like(returns, sum(after) / len(after) if after else 0.0)
    gain = (sum(after) - sum(before)) / len(after) if after else 0.0
    return (returns.sum() - returns) / (count - 1) + gain


def credit_unit(data: Sequence[TaskData], discount: float) -> float:
    """The factor from the unit of returns to the unit of the surrogate: 1 / (H · σ), over all tasks.

    The surrogate is a mean over steps, of advantages in units of their standard deviation σ. The residuals of a
    least-squares baseline are uncorrelated with the baseline, so σ is the covariance of the returns to go and the
    normalized advantages. This is exact at λ = 1, and an approximation below.

    Args:
        data: the meta-batch.
        discount: γ of the returns.
    """
    steps = trajectories = 0
    covariance = 0.0
    for task in data:
        for each in task.judged:
            remaining = _remaining(each.batch, discount)[each.batch.mask]
            covariance += float((remaining * each.advantages.double()).sum())
            steps += len(remaining)
            trajectories += len(each.batch.lengths)
    spread = covariance / steps
    return 1.0 / (steps / trajectories * spread) if spread > 1e-8 else 0.0


def _remaining(batch: TrajectoryBatch, discount: float) -> torch.Tensor:
    """[N, max H_n] float64: the discounted return to go of each step."""
    return discounted_sums(batch.pad(batch.rewards.double()), discount)


def _returns(batch: TrajectoryBatch, discount: float) -> torch.Tensor:
    """[N] float64: the discounted return of each trajectory."""
    return _remaining(batch, discount)[:, 0]
