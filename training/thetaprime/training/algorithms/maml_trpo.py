"""MAML for reinforcement learning, with TRPO as the meta-optimizer (Finn et al. 2017, Algorithm 3).

     1  randomly initialize θ                                            `Policy.init`
     2  while not done:                                                  `thetaprime.training.run.train`
     3      sample a batch of tasks T_i ~ p(T)                           `MAML.iterate`
     4      for all T_i:                                                 `MAML.sample_meta_batch`
     5          sample K trajectories D with π_θ                         `collect`
     6          evaluate ∇L(θ) on D (Eq. 4, REINFORCE)                   `adapt_step`
     7          θ′ = θ − α ∇L(θ)
     8          sample trajectories D′ with π_θ′                         `collect`
     9      end for
    10      update θ by the mean over tasks of L(θ′) on D′               `MAML.meta_update`

Line 10 is a step of TRPO (Schulman et al. 2015), as in the paper's experiments:

    minimize over θ    mean over tasks of  L(θ′) = −E_D′[ π_θ′(a|o) / π_old(a|o) · A ]
    subject to         mean KL(π_old ‖ π_θ′) ≤ δ   over D′

π_old is the policy that sampled D′. θ′ is a function of θ: the gradient and the Fisher-vector product differentiate
through the adaptation. With several inner steps, lines 5 to 7 repeat from θ_k to θ_{k+1}. Without inner steps, θ′ = θ
and this is TRPO over all tasks, which trains the comparisons. With `multi_step_loss`, the policies after earlier inner
steps count in line 10, too, each on the trajectories that it sampled.
"""

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch.distributions import Distribution

from thetaprime.models import Parameters, Policy, adapt_step
from thetaprime.models.verdict import with_horizon
from thetaprime.training.algorithms.objective import Iteration, MetaObjective, MetaUpdate, log_ratio
from thetaprime.training.algorithms.trpo import FisherProduct, conjugate_gradient, line_search
from thetaprime.training.config import TrainConfig
from thetaprime.training.resources import MapTasks
from thetaprime.training.sampling.sampler import Collected, TaskData, collect, query_trajectories, support_trajectories
from thetaprime.training.tasks.protocol import Task, TaskDistribution
from thetaprime.training.tasks.spread import spread_tasks


class MAML:
    """Algorithm 3. The other algorithms derive from this class and replace a loss or the meta-update.

    Attributes:
        policy: the network.
        config: the run's configuration.
        optimizer_state: the meta-optimizer's state that a checkpoint keeps; TRPO has none.
    """

    def __init__(self, policy: Policy, config: TrainConfig) -> None:
        self.policy, self.config = policy, config
        self.optimizer_state: Parameters = {}

    def iterate(
        self,
        distribution: TaskDistribution,
        theta: Parameters,
        step_sizes: Parameters | None,
        rng: np.random.Generator,
        map_tasks: MapTasks,
    ) -> Iteration:
        """Runs lines 3 to 10: one iteration, from θ to the next θ."""
        started = time.perf_counter()
        count = self.config.meta_batch_size
        spread = self.config.spread_tasks
        tasks = spread_tasks(distribution, count, rng) if spread else distribution.sample_tasks(count, rng)  # line 3
        meta_batch = self.sample_meta_batch(distribution, tasks, theta, step_sizes, rng)  # lines 4 to 9
        sampling_seconds = time.perf_counter() - started
        objective = MetaObjective(self, theta, step_sizes, meta_batch, map_tasks)
        return Iteration.of_meta_batch(self.meta_update(objective), meta_batch, sampling_seconds)  # line 10

    def sample_meta_batch(
        self,
        distribution: TaskDistribution,
        tasks: Sequence[Task],
        theta: Parameters,
        step_sizes: Parameters | None,
        rng: np.random.Generator,
    ) -> list[TaskData]:
        """Runs lines 4 to 9 for all tasks side by side: samples with θ, adapts, samples with θ′."""
        policy, config, adaptation = self.policy, self.config, self.config.adaptation
        adapted, meta_batch = [theta] * len(tasks), [TaskData([], []) for _ in tasks]
        horizons = [adaptation] * len(tasks)
        for k in range(adaptation.inner_steps):
            K = config.support_trajectories or adaptation.trajectories_per_round
            batches = collect(distribution, tasks, policy, adapted, K, rng=rng)  # line 5
            for i, batch in enumerate(batches):
                if config.multi_step_loss and k > 0:
                    meta_batch[i].judged.append(query_trajectories(policy, adapted[i], k, batch, config))
                if k == 0:
                    horizons[i] = with_horizon(policy, theta, batch, adaptation, step_sizes=step_sizes)
                support = support_trajectories(policy, adapted[i], k, batch, config, horizons[i])
                meta_batch[i].support.append(support)
                adapted[i] = adapt_step(  # lines 6 and 7
                    policy,
                    adapted[i],
                    batch,
                    adaptation,
                    step=k,
                    step_sizes=step_sizes,
                    length=support.length,
                    advantage=support.advantages,
                ).parameters
        batches = collect(distribution, tasks, policy, adapted, adaptation.trajectories_per_round, rng=rng)  # line 8
        for i, batch in enumerate(batches):
            query = query_trajectories(policy, adapted[i], adaptation.inner_steps, batch, config)
            meta_batch[i].judged.append(query)
        return meta_batch

    def adapt(
        self, theta: Parameters, step_sizes: Parameters | None, task: TaskData, *, create_graph: bool
    ) -> list[Parameters]:
        """θ, θ_1, …, θ′ as functions of θ: lines 6 and 7 on the trajectories that were sampled."""
        path = [theta]
        for support in task.support:
            step = adapt_step(
                self.policy,
                path[-1],
                support.batch,
                self.config.adaptation,
                step=support.inner_step,
                step_sizes=step_sizes,
                length=support.length,
                create_graph=create_graph,
                advantage=self.inner_weights(path[-1], support),
            )
            path.append(step.parameters)
        return path

    def inner_weights(self, theta: Parameters, support: Collected) -> torch.Tensor:
        """[S]: the weights of the log-probabilities in the inner loss at θ_k. MAML takes the advantages as they are."""
        return support.advantages

    def task_loss(self, path: Sequence[Parameters], adapted: Sequence[Distribution], task: TaskData) -> torch.Tensor:
        """L(θ′) of line 10, for one task.

        Args:
            path: θ, θ_1, …, θ′.
            adapted: for each of `task.judged`, the policy on this path at its observations.
            task: the task's trajectories.
        """
        queries = zip(adapted, task.judged, strict=True)
        losses = [-(log_ratio(policy, query).exp() * query.advantages).mean() for policy, query in queries]
        return torch.stack(losses).mean()

    def meta_update(self, objective: MetaObjective) -> MetaUpdate:
        """Runs line 10: a TRPO step, from θ to the next θ."""
        gradient = objective.gradient(objective.theta)
        fisher_product = FisherProduct(objective)
        natural, residual = conjugate_gradient(fisher_product, gradient.theta)
        curvature = float(natural.dot(gradient.theta - residual))  # xᵀFx, since F x = g up to the residual
        found = line_search(
            objective.theta, gradient.loss, natural, curvature, objective.evaluate, max_kl=self.config.max_kl
        )
        return objective.updated(found, gradient)
