"""RL² (Duan et al. 2016, "RL²: Fast reinforcement learning via slow reinforcement learning"; Wang et al. 2016).

    1  initialize θ, the memory's initial state among it              `RecurrentPolicy.init`
    2  while not done:                                                `thetaprime.training.run.train`
    3      sample a batch of tasks                                    `RL2.iterate`
    4      for each task, a lifetime of n episodes with π_θ,          `collect_lifetimes`
           the memory kept from one episode to the next
    5      advantages over the whole lifetime                         `lifetime_advantages`
    6      update θ by PPO, through time                              `fit`

The lifetime's return is what PPO maximizes, so the policy explores in the first episode where that pays in later ones.
Its memory is the update rule: nothing adapts by a gradient.
"""

import time
from collections.abc import Sequence

import numpy as np
import torch

from thetaprime.models import MemoryInputs, Parameters, RecurrentPolicy
from thetaprime.training.algorithms.objective import Iteration, MetaUpdate
from thetaprime.training.algorithms.rl2.critic import (
    TaskScale,
    ValueScale,
    criticize,
    init_critic,
    lifetime_advantages,
)
from thetaprime.training.algorithms.rl2.normalization import RunningMoments, needs_moments
from thetaprime.training.algorithms.rl2.ppo import TASK_BIAS, TASK_WEIGHT, Chunks, fit
from thetaprime.training.config import TrainConfig
from thetaprime.training.resources import MapTasks
from thetaprime.training.sampling.lifetimes import Lifetimes, collect_lifetimes
from thetaprime.training.tasks.protocol import Task, TaskDistribution
from thetaprime.training.tasks.spread import spread_tasks

_VALUE_SCALE = "value_scale"


class RL2:
    """The outer loop of policies that remember.

    Attributes:
        policy: the network, with the normalization that training has measured so far.
        config: the run's configuration.
        optimizer_state: what a checkpoint keeps beside θ: the critic, the task's prediction, the moments of
            observations and rewards, the scale of returns, and Adam's state.
    """

    def __init__(self, policy: RecurrentPolicy, config: TrainConfig) -> None:
        self.policy, self.config = policy, config
        self.optimizer_state: Parameters = {}
        self._environment = policy.environment

    def iterate(
        self,
        distribution: TaskDistribution,
        theta: Parameters,
        step_sizes: Parameters | None,
        rng: np.random.Generator,
        map_tasks: MapTasks,
    ) -> Iteration:
        """Runs lines 3 to 6: one iteration, from θ to the next θ."""
        started = time.perf_counter()
        config, spec = self.config, self.config.rl2
        task_scale = TaskScale.measure(distribution, config.seed)
        moments = RunningMoments(self.optimizer_state)
        self.policy = RecurrentPolicy(self._environment, moments.normalized(config.policy))
        extra = 0
        if not moments.state and needs_moments(config.policy):
            lifetimes = self._sample(distribution, self._tasks(distribution, rng), theta, rng)
            moments.add(lifetimes)
            extra = lifetimes.steps
            self.policy = RecurrentPolicy(self._environment, moments.normalized(config.policy))
        tasks = self._tasks(distribution, rng)  # line 3
        lifetimes = self._sample(distribution, tasks, theta, rng)  # line 4
        sampling_seconds = time.perf_counter() - started

        learned = self._learned(theta, len(task_scale.mean))
        before = self._value_scale()
        hints = self._hints(task_scale.normalized(tasks), lifetimes)
        values = before.mean + before.deviation * self._values(learned, lifetimes, hints)
        mask = lifetimes.mask
        advantages = lifetime_advantages(  # line 5
            lifetimes.rewards, values, mask, discount=spec.discount, gae_lambda=spec.gae_lambda
        )
        targets = advantages + values
        scale = before.followed(targets[mask])
        learned = scale.rescaled(learned, before)
        chunks = self._chunks(theta, lifetimes, advantages, (targets - scale.mean) / scale.deviation, hints)
        found = fit(self.policy, learned, self.optimizer_state, chunks, spec, rng, map_tasks)  # line 6

        moments.add(lifetimes)
        extras = {name: value for name, value in found.parameters.items() if name not in theta}
        numbers = torch.tensor([scale.mean, scale.deviation], dtype=torch.float64)
        self.optimizer_state = {**found.optimizer_state, **extras, **moments.state, _VALUE_SCALE: numbers}
        returns = lifetimes.returns(spec.episodes)
        update = MetaUpdate(
            theta={name: found.parameters[name] for name in theta},
            step_size_gradient=None,
            accepted=True,
            improvement=found.improvement,
            kl_divergence=found.kl_divergence,
        )
        return Iteration(
            update,
            pre_return=float(returns[0].mean()),
            post_return=float(returns[-1].mean()),
            environment_steps=extra + lifetimes.steps,
            sampling_seconds=sampling_seconds,
            measurements={"rl2/value_error": found.value_error, "rl2/task_error": found.task_error},
        )

    def _tasks(self, distribution: TaskDistribution, rng: np.random.Generator) -> Sequence[Task]:
        count = self.config.meta_batch_size
        return (
            spread_tasks(distribution, count, rng)
            if self.config.spread_tasks
            else distribution.sample_tasks(count, rng)
        )

    def _sample(
        self, distribution: TaskDistribution, tasks: Sequence[Task], theta: Parameters, rng: np.random.Generator
    ) -> Lifetimes:
        return collect_lifetimes(distribution, tasks, self.policy, theta, self.config.rl2.episodes, rng=rng)

    def _learned(self, theta: Parameters, task_size: int) -> Parameters:
        """θ, the critic and the task's prediction."""
        D, H = task_size, self.policy.memory.size
        extras = init_critic(
            self._environment.observation_size + H + D + 2, self.config.rl2.value_sizes, self.config.seed
        )
        extras |= {TASK_WEIGHT: torch.zeros(D, H), TASK_BIAS: torch.zeros(D)}
        return {**theta, **{name: self.optimizer_state.get(name, value) for name, value in extras.items()}}

    def _value_scale(self) -> ValueScale:
        if _VALUE_SCALE not in self.optimizer_state:
            return ValueScale()
        mean, deviation = self.optimizer_state[_VALUE_SCALE].tolist()
        return ValueScale(mean, deviation, known=True)

    def _hints(self, tasks: torch.Tensor, lifetimes: Lifetimes) -> torch.Tensor:
        """[L, T, D + 2]: the task, and the parts of the lifetime and of the episode that are over."""
        L = len(lifetimes.rewards)
        episodes = torch.from_numpy(lifetimes.episodes).float() / self.config.rl2.episodes
        times = torch.from_numpy(lifetimes.times).float() / self._environment.horizon
        return torch.cat([tasks.expand(L, *tasks.shape), torch.stack([episodes, times], -1)], -1)

    @torch.no_grad()
    def _values(
        self, learned: Parameters, lifetimes: Lifetimes, hints: torch.Tensor
    ) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        """[L, T] the critic's values, in its units."""
        mean, factor = self.policy.normalization
        read = (torch.from_numpy(lifetimes.observations) - mean) * factor
        remembered = torch.from_numpy(lifetimes.states[0])
        return criticize(learned, torch.cat([read, remembered, hints], -1)).double().numpy()

    @torch.no_grad()
    def _chunks(
        self,
        theta: Parameters,
        lifetimes: Lifetimes,
        advantages: np.ndarray[tuple[int, int], np.dtype[np.float64]],
        targets: np.ndarray[tuple[int, int], np.dtype[np.float64]],
        hints: torch.Tensor,
    ) -> Chunks:
        """The lifetimes in chunks, with advantages of mean 0 and deviation 1."""
        mask = lifetimes.mask
        of_steps = advantages[mask]
        normalized = (advantages - of_steps.mean()) / max(of_steps.std(), 1e-8) * mask
        head = torch.from_numpy(lifetimes.heads)
        outputs = (head, self.policy.log_std(theta)) if self.policy.continuous else (head,)
        actions = torch.from_numpy(lifetimes.actions)
        K = min(self.config.rl2.chunk_steps, len(mask))
        count = -(-len(mask) // K)

        def cut(values: torch.Tensor) -> torch.Tensor:
            """[L, T, …] -> [K, chunks, …], padded with zeros."""
            padded = values.new_zeros(count * K, *values.shape[1:])
            padded[: len(values)] = values
            return padded.reshape(count, K, *values.shape[1:]).transpose(0, 1).flatten(1, 2)

        inputs = lifetimes.inputs
        read = (inputs.observations, inputs.previous_actions, inputs.previous_rewards, inputs.episode_starts)
        before = range(K - 1, len(mask) - 1, K)  # the last steps of all chunks but the lifetimes' last ones
        return Chunks(
            inputs=MemoryInputs(*(cut(each) for each in read)),
            state=tuple(_after_none(torch.from_numpy(each[before])).flatten(0, 1) for each in lifetimes.states),
            first=torch.arange(count * mask.shape[1]) < mask.shape[1],
            actions=cut(actions),
            log_probs=cut(self.policy.log_prob(outputs, actions)),
            advantages=cut(torch.from_numpy(normalized).float()),
            targets=cut(torch.from_numpy(targets).float()),
            hints=cut(hints),
            mask=cut(torch.from_numpy(mask).float()),
        )


def _after_none(states: torch.Tensor) -> torch.Tensor:
    """[C, T, H] -> [C + 1, T, H]: zeros first, for the chunks that begin in the learned initial state."""
    return torch.cat([torch.zeros(1, *states.shape[1:]), states])
