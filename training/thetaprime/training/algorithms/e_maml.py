"""E-MAML: credit for exploring (Stadie et al. 2018; Al-Shedivat et al. 2018, Eq. 8; "formulation I" of Rothfuss 2019).

What is wanted is J(θ) = E_D∼π_θ[ E_D′∼π_θ′[ R(D′) ] ] with θ′ = θ − α ∇L(θ; D). θ moves it in two ways: it changes what
is learned from given support trajectories D, and which of them are sampled:

    ∇J = E[ R(D′) ∇log π_θ′(D′)  +  R(D′) Σ_D ∇log π_θ(a|o) ]

The first term is MAML's. The second is left out there: it credits the support's actions with the return that adapting
to them led to. Both together are unbiased where the inner loss is the paper's (curvature "log_prob"); the others
estimate the second term's share in their own way, and would count it twice. As a loss, for inner steps k:

    mean over tasks of  −E_D′[ π_θ′ / π_old · A ]  −  w Σ_k Σ_D_k log π_θk(a|o) · C_n,     under MAML's trust region

C_n is trajectory n's credit, R(D′) less what of it does not depend on n: the mean return of the *other* trajectories of
D_k, and by how much adapting raised it in the *other* tasks. So it is free of bias, and tasks that are hard for every
policy do not add their difficulty to the variance. That is large as it is, since all support actions share one R(D′):
on eight tasks of point-navigation with ten trajectories each, w = 1 lost the policy and w ≤ 0.03 learned as MAML does.
`exploration_credit` is w: 1 is unbiased, less is a compromise.

Without inner steps there is no support, and this is TRPO over all tasks. With `multi_step_loss` a support batch is
credited with the returns of all later policies that are judged.
"""

from collections.abc import Sequence

import torch
from torch.distributions import Distribution

from thetaprime.models import Parameters, Policy, TrajectoryBatch
from thetaprime.models.advantages import discounted_sums
from thetaprime.training.algorithms.maml_trpo import SurrogateObjective
from thetaprime.training.algorithms.objective import log_ratio
from thetaprime.training.config import TrainConfig
from thetaprime.training.sampling.meta_batch import TaskData
from thetaprime.training.sampling.parallel import MapTasks


class EMAMLObjective(SurrogateObjective):
    """MAML's surrogate and the support's credit.

    Args:
        policy: as in `MetaObjective`; and so are the others.
        parameters: θ.
        step_sizes: learned step sizes, or None.
        config: of the run.
        data: of each task.
        each_task: applies a function to each task, in parallel.
    """

    def __init__(
        self,
        policy: Policy,
        parameters: Parameters,
        step_sizes: Parameters | None,
        config: TrainConfig,
        data: Sequence[TaskData],
        each_task: MapTasks,
    ) -> None:
        super().__init__(policy, parameters, step_sizes, config, data, each_task)
        unit = credit_unit(data, config.outer_discount)
        self._credits = {
            task: [config.exploration_credit * unit * credit for credit in of_task]
            for task, of_task in zip(data, exploration_credits(data, config.outer_discount), strict=True)
        }

    def task_loss(self, path: Sequence[Parameters], adapted: Sequence[Distribution], task: TaskData) -> torch.Tensor:
        """The loss of one task."""
        loss = super().task_loss(path, adapted, task)
        for each, credit in zip(task.support, self._credits[task], strict=True):
            # Against π_old, a constant: sums of differences keep more digits than sums of log-probabilities.
            relative = log_ratio(self.distribution(path, each), each)
            loss = loss - (relative * credit.to(relative.dtype)).sum()
        return loss


def exploration_credits(data: Sequence[TaskData], discount: float) -> list[list[torch.Tensor]]:
    """C of every support step, in the unit of returns.

    Args:
        data: of each task.
        discount: γ of the returns.

    Returns:
        For each task and inner step [S] float64, alike along a trajectory.
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
                if each.steps > data[task].support[stage].steps:
                    before = [float(supports[other][stage].mean()) for other in rest]
                    after = [judged[other][number] for other in rest]
                    credit += judged[task][number] - _expected(returns, before, after)
            lengths = torch.tensor(data[task].support[stage].batch.lengths)
            of_task.append((credit / len(data[task].judged)).repeat_interleave(lengths))
        found.append(of_task)
    return found


def _expected(returns: torch.Tensor, before: Sequence[float], after: Sequence[float]) -> torch.Tensor:
    """[N]: the return to expect after adapting, from all but trajectory n itself.

    Args:
        returns: [N], of one task's support trajectories.
        before: mean return of the other tasks' support.
        after: mean return of the other tasks, adapted.
    """
    count = len(returns)
    if count == 1:
        return torch.full_like(returns, sum(after) / len(after) if after else 0.0)
    gain = (sum(after) - sum(before)) / len(after) if after else 0.0
    return (returns.sum() - returns) / (count - 1) + gain


def credit_unit(data: Sequence[TaskData], discount: float) -> float:
    """What a return is multiplied by, to be in the unit of the surrogate.

    The surrogate is a mean over steps, of advantages in units of their standard deviation σ: so 1 / (H · σ), over all
    tasks together. A least-squares baseline's residuals are uncorrelated with what it fits, so σ is the covariance of
    the returns that remain with the normalized advantages (at λ = 1; below, it is a sensible unit still).

    Args:
        data: of each task.
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
    """[N, max H_n] float64: the discounted return from each step on."""
    return discounted_sums(batch.pad(batch.rewards.double()), discount)


def _returns(batch: TrajectoryBatch, discount: float) -> torch.Tensor:
    """[N] float64: the discounted return of each trajectory."""
    return _remaining(batch, discount)[:, 0]
