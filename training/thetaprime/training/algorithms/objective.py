"""What the outer loops share: a loss that is judged at the adapted policies, as a function of θ.

θ′ is a function of θ throughout, so every derivative here goes through the adaptation. A method says what a task's loss
is, given the path θ, θ_1, …, θ′ and the action distributions at its end; everything else is the same for all.
"""

import abc
import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.distributions import Distribution, kl_divergence

from thetaprime.models import Parameters, Policy, adapt_step
from thetaprime.training.algorithms.fisher import FisherProduct
from thetaprime.training.algorithms.flat import unflatten
from thetaprime.training.config import TrainConfig
from thetaprime.training.sampling.meta_batch import Collected, TaskData
from thetaprime.training.sampling.parallel import MapTasks


class MetaGradient(NamedTuple):
    """A loss and its derivatives.

    Attributes:
        loss: as `MetaObjective.evaluate` gives it.
        theta: [P], ∂loss/∂θ.
        step_sizes: ∂loss/∂step sizes, where they are learned.
    """

    loss: float
    theta: torch.Tensor
    step_sizes: Parameters | None


def log_ratio(policy: Distribution, collected: Collected) -> torch.Tensor:
    """[S]: log π(a|o) − log π_old(a|o) of the actions taken."""
    actions = collected.batch.actions
    log_probs: torch.Tensor = policy.log_prob(actions) - collected.behavior.log_prob(actions)
    return log_probs


class MetaObjective(abc.ABC):
    """An outer loss, its KL from π_old and their derivatives, as functions of θ [P] (flattened).

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

    @abc.abstractmethod
    def task_loss(self, path: Sequence[Parameters], adapted: Sequence[Distribution], task: TaskData) -> torch.Tensor:
        """The loss of one task.

        Args:
            path: θ, θ_1, …, θ′.
            adapted: the policy of that path at the observations of each of `task.judged`.
            task: its trajectories.
        """

    def inner_weights(self, parameters: Parameters, collected: Collected) -> torch.Tensor:
        """[S]: what the inner loss weighs log-probabilities with, at some θ_k: the advantages as they are.

        Away from the θ that collected them an inner loss with importance weights says otherwise.
        """
        return collected.advantages

    def distribution(self, path: Sequence[Parameters], collected: Collected) -> Distribution:
        """The policy at the observations of some trajectories, after as many inner steps as had led to them."""
        return self._policy.distribution(path[collected.steps], collected.batch.observations)

    def path(self, theta: torch.Tensor, task: TaskData, *, create_graph: bool) -> list[Parameters]:
        """θ, θ_1, …, θ′, through one inner step for each support batch."""
        path = [unflatten(theta, self._like)]
        for each in task.support:
            step = adapt_step(
                self._policy,
                path[-1],
                each.batch,
                self._config.adaptation,
                step=each.steps,
                step_sizes=self._step_sizes,
                create_graph=create_graph,
                advantage=self.inner_weights(path[-1], each),
            )
            path.append(step.parameters)
        return path

    def adapted(self, path: Sequence[Parameters], task: TaskData) -> list[Distribution]:
        """The adapted policies at the observations that each is judged by."""
        return [self.distribution(path, each) for each in task.judged]

    def evaluate(self, theta: torch.Tensor) -> tuple[float, float]:
        """The loss and the mean KL(π_old ‖ π_θ′), in nats, over all tasks."""
        pairs = self._each_task(functools.partial(self._evaluate_task, theta), self._data)
        loss, divergence = torch.tensor(pairs, dtype=torch.float64).mean(0).tolist()
        return loss, divergence

    @torch.no_grad()
    def _evaluate_task(self, theta: torch.Tensor, task: TaskData) -> tuple[float, float]:
        path = self.path(theta, task, create_graph=False)
        adapted = self.adapted(path, task)
        divergences = [
            kl_divergence(each.behavior, policy).mean() for policy, each in zip(adapted, task.judged, strict=True)
        ]
        return float(self.task_loss(path, adapted, task)), float(torch.stack(divergences).mean())

    def gradient(self, theta: torch.Tensor) -> "MetaGradient":
        """The loss over all tasks, and where it falls."""
        point = theta.detach().requires_grad_()
        sizes = list((self._step_sizes or {}).values())

        def of_task(task: TaskData) -> tuple[float, tuple[torch.Tensor, ...]]:
            path = self.path(point, task, create_graph=True)
            loss = self.task_loss(path, self.adapted(path, task), task)
            return float(loss.detach()), torch.autograd.grad(loss / len(self._data), (point, *sizes))

        losses, gradients = zip(*self._each_task(of_task, self._data), strict=True)
        total, *by_size = (sum(parts) for parts in zip(*gradients, strict=True))
        return MetaGradient(
            loss=float(torch.tensor(losses, dtype=torch.float64).mean()),
            theta=total,
            step_sizes=dict(zip(self._step_sizes, by_size, strict=True)) if self._step_sizes else None,
        )

    def fisher_product(self, theta: torch.Tensor) -> FisherProduct:
        """V [P] -> F v [P], the Hessian of the mean KL at θ, over a part of the tasks."""
        count = max(1, round(len(self._data) * self._config.fisher_fraction))

        def outputs(task: TaskData, each: Collected, point: torch.Tensor) -> tuple[torch.Tensor, ...]:
            path = self.path(point, task, create_graph=True)
            return self._policy.outputs(path[each.steps], each.batch.observations)

        parts = [functools.partial(outputs, task, each) for task in self._data[:count] for each in task.judged]
        return FisherProduct(self._policy, parts, theta, self._each_task)
