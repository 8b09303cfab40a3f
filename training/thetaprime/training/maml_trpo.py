"""MAML for reinforcement learning: REINFORCE inside, TRPO outside (Finn et al. 2017, Algorithm 3).

One iteration, for T tasks drawn from the distribution:

    for each inner step k:   collect D_k with θ_k   and take   θ_{k+1} = θ_k − α ∇L(θ_k; D_k)
    collect the query trajectories D′ with θ′, the policy after the last inner step
    minimise over θ   mean over tasks of  −E_D′[ π_θ′(a|o) / π_old(a|o) · A ]
             subject to   mean KL(π_old ‖ π_θ′) ≤ δ   over D′

θ′ is a function of θ throughout: both the objective's gradient and the Fisher-vector product go through the adaptation.
Without inner steps θ′ = θ, and this is TRPO over all tasks: what the comparisons are trained with. With
`multi_step_loss` the policies after earlier steps are judged too, by the trajectories that the next step learns from.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch.distributions import Distribution, kl_divergence

from thetaprime.models import Parameters, Policy, TrajectoryBatch, adapt_path, adapt_step, advantages, inner_advantages
from thetaprime.training.config import TrainConfig
from thetaprime.training.fisher import FisherProduct
from thetaprime.training.flat import flatten, unflatten
from thetaprime.training.parallel import MapTasks
from thetaprime.training.sampler import collect
from thetaprime.training.tasks import Task, TaskDistribution
from thetaprime.training.trust_region import StepOutcome, trust_region_step


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """Trajectories that the policy after some inner steps is judged by.

    Attributes:
        steps: k: they were collected with θ_k.
        batch: the trajectories.
        advantages: [S], of the outer loop.
        behaviour: π_old, the distribution that their actions were drawn from.
    """

    steps: int
    batch: TrajectoryBatch
    advantages: torch.Tensor
    behaviour: Distribution


@dataclasses.dataclass(frozen=True, eq=False)
class TaskData:
    """What one task contributes to an iteration.

    Attributes:
        support: the batches D_k of each inner step.
        support_advantages: [S] of each.
        judged: what the outer loop looks at: the query batch D′, after those of earlier steps where
            `multi_step_loss` asks for them.
    """

    support: list[TrajectoryBatch]
    support_advantages: list[torch.Tensor]
    judged: list[Judged]

    @property
    def query(self) -> TrajectoryBatch:
        """D′, collected after the last inner step."""
        return self.judged[-1].batch


def sample_iteration(
    distribution: TaskDistribution,
    tasks: Sequence[Task],
    policy: Policy,
    parameters: Parameters,
    step_sizes: Parameters | None,
    config: TrainConfig,
    rng: np.random.Generator,
) -> list[TaskData]:
    """Adapts to each task, resampling at every inner step, and collects the query trajectories."""
    adaptation = config.adaptation
    current = [parameters] * len(tasks)
    data = [TaskData([], [], []) for _ in tasks]
    for step in range(adaptation.inner_steps + 1):
        last = step == adaptation.inner_steps
        batches = collect(distribution, tasks, policy, current, adaptation.trajectories_per_round, rng=rng)
        for i, batch in enumerate(batches):
            if last or (config.multi_step_loss and step > 0):
                data[i].judged.append(_judge(policy, current[i], batch, step, config))
            if not last:
                weights = inner_advantages(policy, batch, adaptation)
                data[i].support.append(batch)
                data[i].support_advantages.append(weights)
                current[i] = adapt_step(
                    policy, current[i], batch, adaptation, step=step, step_sizes=step_sizes, advantage=weights
                ).parameters
    return data


@torch.no_grad()
def _judge(policy: Policy, parameters: Parameters, batch: TrajectoryBatch, steps: int, config: TrainConfig) -> Judged:
    outer_advantages = advantages(
        batch,
        horizon=policy.environment.horizon,
        discount=config.outer_discount,
        gae_lambda=config.outer_gae_lambda,
        ridge=config.adaptation.baseline_ridge,
    )
    return Judged(steps, batch, outer_advantages, policy.distribution(parameters, batch.observations))


@dataclasses.dataclass(frozen=True, eq=False)
class OuterStep:
    """An outer step.

    Attributes:
        parameters: the next θ.
        step_size_gradient: ∂loss/∂step sizes at the old θ, where they are learned.
        outcome: what the trust region did.
    """

    parameters: Parameters
    step_size_gradient: Parameters | None
    outcome: StepOutcome


class MetaObjective:
    """The outer loss, its KL constraint and their derivatives, as functions of θ [P] (flattened).

    Args:
        policy: the network.
        parameters: θ, whose names and shapes the flat vectors follow.
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
        self._each_task = each_task
        self._policy, self._like, self._step_sizes = policy, parameters, step_sizes
        self._config, self._data = config, data

    def _path(self, theta: torch.Tensor, task: TaskData, *, create_graph: bool) -> list[Parameters]:
        return adapt_path(
            self._policy,
            unflatten(theta, self._like),
            task.support,
            self._config.adaptation,
            step_sizes=self._step_sizes,
            create_graph=create_graph,
            inner_advantage=task.support_advantages,
        )

    def _adapted(self, theta: torch.Tensor, task: TaskData, *, create_graph: bool) -> list[Distribution]:
        """The adapted policies at the observations that each is judged by."""
        path = self._path(theta, task, create_graph=create_graph)
        return [self._policy.distribution(path[each.steps], each.batch.observations) for each in task.judged]

    def _loss(self, adapted: Sequence[Distribution], task: TaskData) -> torch.Tensor:
        losses = []
        for policy, each in zip(adapted, task.judged, strict=True):
            log_ratio = policy.log_prob(each.batch.actions) - each.behaviour.log_prob(each.batch.actions)
            losses.append(-(log_ratio.exp() * each.advantages).mean())
        return torch.stack(losses).mean()

    def evaluate(self, theta: torch.Tensor) -> tuple[float, float]:
        """The loss and the mean KL from π_old, over all tasks."""
        pairs = self._each_task(functools.partial(self._evaluate_task, theta), self._data)
        loss, divergence = torch.tensor(pairs, dtype=torch.float64).mean(0).tolist()
        return loss, divergence

    @torch.no_grad()
    def _evaluate_task(self, theta: torch.Tensor, task: TaskData) -> tuple[float, float]:
        adapted = self._adapted(theta, task, create_graph=False)
        divergences = [
            kl_divergence(each.behaviour, policy).mean() for policy, each in zip(adapted, task.judged, strict=True)
        ]
        return float(self._loss(adapted, task)), float(torch.stack(divergences).mean())

    def gradient(self, theta: torch.Tensor) -> tuple[torch.Tensor, Parameters | None]:
        """∂loss/∂θ [P], and ∂loss/∂step sizes where they are learned."""
        point = theta.detach().requires_grad_()
        sizes = list((self._step_sizes or {}).values())

        def of_task(task: TaskData) -> tuple[torch.Tensor, ...]:
            loss = self._loss(self._adapted(point, task, create_graph=True), task) / len(self._data)
            return torch.autograd.grad(loss, (point, *sizes))

        total, *by_size = (sum(parts) for parts in zip(*self._each_task(of_task, self._data), strict=True))
        return total, dict(zip(self._step_sizes, by_size, strict=True)) if self._step_sizes else None

    def fisher_product(self, theta: torch.Tensor) -> FisherProduct:
        """V [P] -> F v [P], the Hessian of the mean KL at θ, over a part of the tasks."""
        count = max(1, round(len(self._data) * self._config.fisher_fraction))

        def outputs(task: TaskData, each: Judged, point: torch.Tensor) -> tuple[torch.Tensor, ...]:
            path = self._path(point, task, create_graph=True)
            return self._policy.outputs(path[each.steps], each.batch.observations)

        parts = [functools.partial(outputs, task, each) for task in self._data[:count] for each in task.judged]
        return FisherProduct(self._policy, parts, theta, self._each_task)


def outer_step(
    policy: Policy,
    parameters: Parameters,
    step_sizes: Parameters | None,
    config: TrainConfig,
    data: Sequence[TaskData],
    each_task: MapTasks,
) -> OuterStep:
    """θ -> the next θ, and the gradient for the step sizes where they are learned."""
    objective = MetaObjective(policy, parameters, step_sizes, config, data, each_task)
    theta = flatten(parameters)
    gradient, step_size_gradient = objective.gradient(theta)
    outcome = trust_region_step(
        theta, gradient, objective.fisher_product(theta), objective.evaluate, max_kl=config.max_kl
    )
    return OuterStep(unflatten(outcome.position, parameters), step_size_gradient, outcome)
