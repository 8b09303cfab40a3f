"""The meta-objective as a function of θ: its value, its gradient, and the KL divergence that a meta-update bounds.

θ′ is a function of θ, so every derivative here goes through the adaptation. An algorithm defines the loss of one task;
the meta-objective is the mean over the meta-batch. θ is one vector [P] here, as optimizers need it.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch.distributions import Distribution, kl_divergence

from thetaprime.models import Parameters, Policy
from thetaprime.training.config import TrainConfig
from thetaprime.training.resources import MapTasks
from thetaprime.training.sampling.sampler import Collected, TaskData
from thetaprime.training.tasks.protocol import TaskDistribution


class MetaGradient(NamedTuple):
    """A loss and its derivatives.

    Attributes:
        loss: the meta-objective, as `MetaObjective.evaluate` returns it.
        theta: [P], ∂loss/∂θ.
        step_sizes: ∂loss/∂step sizes; None without learned step sizes.
    """

    loss: float
    theta: torch.Tensor
    step_sizes: Parameters | None


@dataclasses.dataclass(frozen=True, eq=False)
class SearchResult:
    """The point that an optimizer accepted.

    Attributes:
        theta: [P]; the start, where every step was rejected.
        accepted: whether a step was accepted.
        improvement: decrease of the meta-objective.
        kl_divergence: mean KL(π_old ‖ π_θ′) at `theta`, in nats.
        backtracks: how often the last step was shortened.
    """

    theta: torch.Tensor
    accepted: bool
    improvement: float
    kl_divergence: float
    backtracks: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class MetaUpdate:
    """The outcome of one meta-update.

    Attributes:
        theta: the next θ.
        step_size_gradient: ∂loss/∂step sizes at the old θ; None without learned step sizes.
        accepted: whether θ moved.
        improvement: decrease of the meta-objective.
        kl_divergence: mean KL(π_old ‖ π_θ′) at the next θ, in nats.
    """

    theta: Parameters
    step_size_gradient: Parameters | None
    accepted: bool
    improvement: float
    kl_divergence: float


@dataclasses.dataclass(frozen=True, eq=False)
class Iteration:
    """The outcome of one iteration.

    Attributes:
        update: the meta-update.
        pre_return: mean undiscounted return before adaptation; of a memory, in a lifetime's first episode.
        post_return: mean undiscounted return after adaptation; of a memory, in a lifetime's last episode.
        environment_steps: taken.
        sampling_seconds: time spent on sampling and adapting.
        measurements: others of the algorithm, for the trackers, by name.
    """

    update: MetaUpdate
    pre_return: float
    post_return: float
    environment_steps: int
    sampling_seconds: float
    measurements: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_meta_batch(cls, update: MetaUpdate, meta_batch: Sequence[TaskData], sampling_seconds: float) -> "Iteration":
        """The outcome of an iteration on the trajectories of some tasks."""
        first = [(each.support or each.judged)[0].batch for each in meta_batch]
        return cls(
            update,
            pre_return=float(np.mean([float(batch.returns.mean()) for batch in first])),
            post_return=float(np.mean([float(each.query.returns.mean()) for each in meta_batch])),
            environment_steps=sum(each.steps for each in meta_batch),
            sampling_seconds=sampling_seconds,
        )


class OuterLoop(Protocol):
    """An algorithm that improves θ, one iteration at a time.

    Attributes:
        optimizer_state: what a checkpoint keeps beside θ.
    """

    optimizer_state: Parameters

    def iterate(
        self,
        distribution: TaskDistribution,
        theta: Parameters,
        step_sizes: Parameters | None,
        rng: np.random.Generator,
        map_tasks: MapTasks,
    ) -> Iteration:
        """Takes one iteration, from θ to the next θ."""


class Algorithm(Protocol):
    """The parts of an algorithm that define its meta-objective: see `MAML`."""

    policy: Policy
    config: TrainConfig

    def adapt(
        self, theta: Parameters, step_sizes: Parameters | None, task: TaskData, *, create_graph: bool
    ) -> list[Parameters]:
        """θ, θ_1, …, θ′ for one task."""

    def task_loss(self, path: Sequence[Parameters], adapted: Sequence[Distribution], task: TaskData) -> torch.Tensor:
        """The loss of one task at its adapted policies."""


class MetaObjective:
    """The mean over a meta-batch of an algorithm's task losses.

    Args:
        algorithm: defines the adaptation and the loss of one task.
        parameters: θ before the meta-update; its names and shapes order the vectors.
        step_sizes: learned step sizes, as leaves of the graph; None for those of the configuration.
        meta_batch: the trajectories of each task.
        map_tasks: applies a function to each task.

    Attributes:
        theta: [P], θ before the meta-update.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        parameters: Parameters,
        step_sizes: Parameters | None,
        meta_batch: Sequence[TaskData],
        map_tasks: MapTasks,
    ) -> None:
        self.algorithm, self.meta_batch, self.map_tasks = algorithm, meta_batch, map_tasks
        self.theta = flatten(parameters)
        self._like, self._step_sizes = parameters, step_sizes

    def path(
        self, theta: torch.Tensor, task: TaskData, *, create_graph: bool, copies: int | None = None
    ) -> list[Parameters]:
        """θ, θ_1, …, θ′ for one task, from θ [P]; or for T tasks in one, from T `copies` of θ."""
        parameters = unflatten(theta, self._like)
        if copies is not None:
            parameters = {name: value.expand(copies, *value.shape) for name, value in parameters.items()}
        return self.algorithm.adapt(parameters, self._step_sizes, task, create_graph=create_graph)

    def adapted(self, path: Sequence[Parameters], task: TaskData) -> list[Distribution]:
        """The adapted policies, each at the observations of the trajectories that judge it."""
        return [policy_at(self.algorithm.policy, path, query) for query in task.judged]

    def evaluate(self, theta: torch.Tensor) -> tuple[float, float]:
        """The meta-objective, and the mean KL(π_old ‖ π_θ′) in nats, at θ [P]."""
        pairs = self.map_tasks(functools.partial(self._evaluate_task, theta), self.meta_batch)
        loss, divergence = torch.tensor(pairs, dtype=torch.float64).mean(0).tolist()
        return loss, divergence

    @torch.no_grad()
    def _evaluate_task(self, theta: torch.Tensor, task: TaskData) -> tuple[float, float]:
        path = self.path(theta, task, create_graph=False)
        adapted = self.adapted(path, task)
        divergences = [
            kl_divergence(query.behavior, policy).mean() for policy, query in zip(adapted, task.judged, strict=True)
        ]
        loss = self.algorithm.task_loss(path, adapted, task)
        return float(loss), float(torch.stack(divergences).mean())

    def gradient(self, theta: torch.Tensor) -> MetaGradient:
        """The meta-objective and its gradient at θ [P], through the adaptation."""
        point = theta.detach().requires_grad_()
        sizes = list((self._step_sizes or {}).values())

        def task_gradient(task: TaskData) -> tuple[float, tuple[torch.Tensor, ...]]:
            path = self.path(point, task, create_graph=True)
            loss = self.algorithm.task_loss(path, self.adapted(path, task), task)
            return float(loss.detach()), torch.autograd.grad(loss / len(self.meta_batch), (point, *sizes))

        losses, gradients = zip(*self.map_tasks(task_gradient, self.meta_batch), strict=True)
        total, *by_size = (sum(parts) for parts in zip(*gradients, strict=True))
        return MetaGradient(
            loss=float(torch.tensor(losses, dtype=torch.float64).mean()),
            theta=total,
            step_sizes=dict(zip(self._step_sizes, by_size, strict=True)) if self._step_sizes else None,
        )

    def updated(self, found: SearchResult, gradient: MetaGradient) -> MetaUpdate:
        """The meta-update that ends at a point.

        Args:
            found: the optimizer's result.
            gradient: at the old θ.
        """
        return MetaUpdate(
            theta=unflatten(found.theta, self._like),
            step_size_gradient=gradient.step_sizes,
            accepted=found.accepted,
            improvement=found.improvement,
            kl_divergence=found.kl_divergence,
        )


def policy_at(policy: Policy, path: Sequence[Parameters], collected: Collected) -> Distribution:
    """The policy at the observations of some trajectories, after as many inner steps as led to them."""
    return policy.distribution(path[collected.inner_step], collected.batch.observations)


def log_ratio(policy: Distribution, collected: Collected) -> torch.Tensor:
    """[S]: log π(a|o) − log π_old(a|o) of the sampled actions."""
    actions = collected.batch.actions
    log_probs: torch.Tensor = policy.log_prob(actions) - collected.behavior.log_prob(actions)
    return log_probs


def flatten(parameters: Parameters) -> torch.Tensor:
    """[P]: all parameters as one vector, sorted by name, so that a dictionary read from a file gives the same."""
    return torch.cat([parameters[name].reshape(-1) for name in sorted(parameters)])


def unflatten(vector: torch.Tensor, like: Parameters) -> Parameters:
    """Parameters with the names and shapes of `like`, from a vector [P]; differentiable."""
    names = sorted(like)
    parts = torch.split(vector, [like[name].numel() for name in names])
    return {name: part.view(like[name].shape) for name, part in zip(names, parts, strict=True)}
