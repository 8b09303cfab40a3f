"""Measures a task distribution before training: its speed, observations, rewards, and where rewards answer to actions.

Where rewards answer to actions is measured by the gradient. For a discount γ, the trajectories of each task
are split into halves A and B with gradients g_γ of the policy's surrogate. A step of unit length along g_γ(A) is
expected to raise the undiscounted return by

    ρ(γ) = Σ_tasks ⟨g_γ(A), g_1(B)⟩ / sqrt( Σ_tasks ‖g_γ(A)‖² )

The halves are independent, so that the noise of one does not pass for agreement with the other. A low discount loses
the late part of the signal (the numerator falls), a high one keeps the noise of rewards that the action did not cause
(the denominator rises). For the inner loop, which has to tell tasks apart, each g is taken relative to its mean over
the tasks. The error of a difference of two ρ is that of a jackknife over the tasks.
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from thetaprime.models import Parameters, Policy, PolicySpec, TrajectoryBatch, estimate_advantages
from thetaprime.models.head import LOG_STD
from thetaprime.models.spec import CONTEXT
from thetaprime.training.sampling.sampler import collect
from thetaprime.training.tasks.networks import make_policy
from thetaprime.training.tasks.oracle import task_vector
from thetaprime.training.tasks.protocol import Task, TaskDistribution

DISCOUNTS: Final = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99)
"""Candidates, lowest first."""
LOG_STDS: Final = (-0.5, -1.0, -1.5)
"""Candidates for the noise of box actions, loudest first."""
_TASKS: Final = 16
_MOST_STEPS: Final = 200_000
_FEWEST, _MOST = 4, 20
_RIDGE: Final = 1e-5
_Array = npt.NDArray[np.float64]


class ProbeError(ValueError):
    """A task distribution from which nothing can be learned."""


@dataclasses.dataclass(frozen=True)
class DiscountScores:
    """ρ of each candidate discount.

    Attributes:
        scores: ρ of each of `DISCOUNTS`.
        errors: the standard error of each one's difference to the best.
    """

    scores: tuple[float, ...]
    errors: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Measurements:
    """What a probe found.

    Attributes:
        seconds: time that it took.
        environment_steps: steps that it took.
        tasks: tasks that it sampled.
        episodes: episodes that it ran.
        steps_per_second: environment steps, with the policy in the loop.
        episode_length: mean length of an episode.
        observation_mean: [O], over the steps of all tasks.
        observation_std: [O], over the steps of all tasks.
        task_size: numbers that describe a task.
        reward_deviation: of one step's reward, over all tasks.
        rewarded_share: share of steps with a reward other than the most frequent one.
        highest_reward: of one step.
        median_return: median over tasks of the mean return of the network that is trained.
        log_std: the loudest of `LOG_STDS` that does not end episodes early; None for discrete actions.
        lengths_by_log_std: mean length of an episode for each log standard deviation that was tried.
        inner: scores of the discounts, for telling tasks apart.
        outer: scores of the discounts, for raising returns.
        context_noise: length of the context's gradient that noise alone gives, from `trajectories` episodes; for
            `init_output_scale` 1, as in a network that has learned.
        trajectories: of each task, for `context_noise`.
    """

    seconds: float
    environment_steps: int
    tasks: int
    episodes: int
    steps_per_second: float
    episode_length: float
    observation_mean: tuple[float, ...]
    observation_std: tuple[float, ...]
    task_size: int
    reward_deviation: float
    rewarded_share: float
    highest_reward: float
    median_return: float
    log_std: float | None
    lengths_by_log_std: dict[float, float]
    inner: DiscountScores
    outer: DiscountScores
    context_noise: float
    trajectories: int


def probe(distribution: TaskDistribution, spec: PolicySpec, *, seconds: float, seed: int) -> Measurements:
    """Runs episodes of a task distribution for about so many seconds.

    Args:
        distribution: the tasks.
        spec: the network to probe with; its normalization is replaced by what is measured.
        seconds: time for the probe. A slow simulator may need more for the fewest episodes that tell anything.
        seed: of the tasks, networks and episodes.

    Raises:
        ProbeError: no reward is other than 0, or no episode's return differs from another's.
    """
    started = time.perf_counter()
    rng = np.random.default_rng((seed, 1))
    runs = _Runs(distribution, rng)

    first = runs.collect(_restless(distribution, spec, rng, _TASKS), 2)
    speed = runs.steps / runs.seconds
    mean, std = _moments(first)
    _check_rewards(first, runs)
    spec = spec.model_copy(update={"observation_mean": tuple(mean), "observation_std": tuple(std)})

    def fitting(share: float) -> int:
        steps = min(speed * max(seconds - (time.perf_counter() - started), 0.0) * share, _MOST_STEPS)
        length = np.mean([length for batch in first for length in batch.lengths])
        return int(np.clip(steps / (_TASKS * length), _FEWEST, _MOST)) // 2 * 2

    policy = make_policy(distribution.environment, spec)
    lengths: dict[float, float] = {}
    chosen: float | None = None
    if policy.continuous:
        for candidate in LOG_STDS:
            quiet = make_policy(distribution.environment, spec.model_copy(update={"init_log_std": candidate}))
            batches = runs.collect([(quiet, quiet.init(seed))] * _TASKS, 2)
            lengths[candidate] = float(np.mean([length for batch in batches for length in batch.lengths]))
            if lengths[candidate] >= distribution.environment.horizon:
                break
        longest = max(lengths.values())
        chosen = next(each for each in LOG_STDS if lengths.get(each, 0.0) >= 0.8 * longest)
        policy = make_policy(distribution.environment, spec.model_copy(update={"init_log_std": chosen}))

    trajectories = fitting(0.6)
    theta = policy.init(seed)
    batches = runs.collect([(policy, theta)] * _TASKS, trajectories)
    everything = [*first, *batches]
    _check_rewards(everything, runs)
    gradients, context_noise = _gradients(policy, theta, batches)
    rewards = torch.cat([batch.rewards for batch in everything]).double()
    _, counts = np.unique(rewards.numpy(), return_counts=True)
    return Measurements(
        seconds=time.perf_counter() - started,
        environment_steps=runs.steps,
        tasks=_TASKS,
        episodes=runs.episodes,
        steps_per_second=runs.steps / runs.seconds,
        episode_length=float(np.mean([length for batch in batches for length in batch.lengths])),
        observation_mean=tuple(mean),
        observation_std=tuple(std),
        task_size=len(task_vector(runs.sampled[0])),
        reward_deviation=float(rewards.std()),
        rewarded_share=1.0 - float(counts.max()) / len(rewards),
        highest_reward=float(rewards.max()),
        median_return=float(np.median([float(batch.returns.mean()) for batch in batches])),
        log_std=chosen,
        lengths_by_log_std=lengths,
        inner=_scores(gradients, centered=True),
        outer=_scores(gradients, centered=False),
        context_noise=context_noise / spec.init_output_scale,
        trajectories=trajectories,
    )


class _Runs:
    """Collects episodes, and counts them."""

    def __init__(self, distribution: TaskDistribution, rng: np.random.Generator) -> None:
        self._distribution, self._rng = distribution, rng
        self.sampled: list[Task] = list(distribution.sample_tasks(_TASKS, rng))
        self.steps, self.episodes, self.seconds = 0, 0, 0.0

    def collect(self, policies: Sequence[tuple[Policy, Parameters]], trajectories: int) -> list[TrajectoryBatch]:
        """Runs episodes of the probe's tasks, each with its own parameters of one network."""
        started = time.perf_counter()
        policy, parameters = policies[0][0], [each[1] for each in policies]
        batches = collect(self._distribution, self.sampled, policy, parameters, trajectories, rng=self._rng)
        self.seconds += time.perf_counter() - started
        self.steps += sum(sum(batch.lengths) for batch in batches)
        self.episodes += sum(len(batch.lengths) for batch in batches)
        return batches


def _restless(
    distribution: TaskDistribution, spec: PolicySpec, rng: np.random.Generator, count: int
) -> list[tuple[Policy, Parameters]]:
    """Random networks with much noise: they visit more than a first policy would."""
    loud = spec.model_copy(update={"init_output_scale": 1.0, "init_log_std": 0.0})
    policy = make_policy(distribution.environment, loud)
    return [(policy, policy.init(int(rng.integers(2**31)))) for _ in range(count)]


def _moments(batches: Sequence[TrajectoryBatch]) -> tuple[list[float], list[float]]:
    """Mean and deviation [O] of the observations; 1 for the deviation of a constant component."""
    observations = torch.cat([batch.observations for batch in batches]).double()
    if not bool(observations.isfinite().all()):
        component = int((~observations.isfinite()).any(0).nonzero()[0])
        raise ProbeError(f"observation: component {component} is NaN or infinite; expected finite numbers")
    mean, std = observations.mean(0), observations.std(0)
    constant = std <= 1e-6 * observations.abs().amax(0).clamp_min(1e-30)
    std = torch.where(constant, torch.ones_like(std), std)
    return [_rounded(each) for each in mean.tolist()], [_rounded(each) for each in std.tolist()]


def _rounded(value: float) -> float:
    """Four significant digits: a configuration is read by people."""
    return float(f"{value:.4g}")


def _check_rewards(batches: Sequence[TrajectoryBatch], runs: _Runs) -> None:
    rewards = torch.cat([batch.rewards for batch in batches])
    looked = f"in {runs.episodes} episodes of {_TASKS} tasks ({runs.steps:,} steps) by random actions"
    if not bool(rewards.isfinite().all()):
        raise ProbeError(f"reward: NaN or infinite {looked}; expected finite numbers")
    if not bool(rewards.any()):
        raise ProbeError(
            f"reward: always 0 {looked}; there is nothing to learn from: reward progress too, such as minus the "
            "distance to the goal, or begin some episodes near it"
        )
    returns = torch.cat([batch.returns for batch in batches])
    if float(returns.max() - returns.min()) <= 1e-9 * float(returns.abs().max()):
        raise ProbeError(
            f"reward: the return is {float(returns[0]):g} in every episode, {looked}; no action changes it: check the "
            "reward, and that actions reach the simulator"
        )


def _gradients(
    policy: Policy, theta: Parameters, batches: Sequence[TrajectoryBatch]
) -> tuple[npt.NDArray[np.float64], float]:
    """[2 halves, discounts and 1, T, P] gradients, and the noise in the context's gradient of a whole batch."""
    loud = {name: value.detach().requires_grad_() for name, value in theta.items() if name != LOG_STD}
    fixed = {name: value for name, value in theta.items() if name == LOG_STD}
    found: list[list[list[_Array]]] = []
    contexts: list[list[_Array]] = []
    for half in range(2):
        found.append([[] for _ in (*DISCOUNTS, 1.0)])
        contexts.append([])
        for batch in batches:
            part = _half(batch, half)
            log_prob = policy.log_prob(policy.outputs({**loud, **fixed}, part.observations), part.actions)
            for index, discount in enumerate((*DISCOUNTS, 1.0)):
                advantage = estimate_advantages(
                    part, horizon=policy.environment.horizon, discount=discount, gae_lambda=1.0, ridge=_RIDGE
                )
                gradient = torch.autograd.grad(
                    (log_prob * advantage).mean(), list(loud.values()), retain_graph=True, materialize_grads=True
                )
                found[half][index].append(torch.cat([each.reshape(-1) for each in gradient]).double().numpy())
                if discount == DISCOUNTS[len(DISCOUNTS) // 2] and CONTEXT in loud:
                    contexts[half].append(dict(zip(loud, gradient, strict=True))[CONTEXT].double().numpy())
    differences = np.array(contexts[0]) - np.array(contexts[1])
    # Half the difference of two halves has the noise of the whole.
    noise = 0.5 * math.sqrt(float(np.square(differences).sum(-1).mean())) if differences.size else 0.0
    return np.array(found), noise


def _half(batch: TrajectoryBatch, half: int) -> TrajectoryBatch:
    """Every other trajectory."""
    ends = np.cumsum((0, *batch.lengths)).tolist()
    chosen = range(half, len(batch.lengths), 2)
    rows = torch.cat([torch.arange(ends[index], ends[index + 1]) for index in chosen])
    picked = torch.tensor(list(chosen))
    return dataclasses.replace(
        batch,
        observations=batch.observations[rows],
        actions=batch.actions[rows],
        rewards=batch.rewards[rows],
        lengths=tuple(batch.lengths[index] for index in chosen),
        terminated=batch.terminated[picked],
        final_observations=batch.final_observations[picked],
    )


def _scores(gradients: _Array, *, centered: bool) -> DiscountScores:
    """ρ of each discount, and the jackknife errors of the differences to the best."""
    if centered:
        gradients = gradients - gradients.mean(2, keepdims=True)
    count = len(DISCOUNTS)
    first, second = gradients[0], gradients[1]
    # [discounts, T]: both halves take both roles.
    products = np.einsum("dtp,tp->dt", first[:count], second[-1]) + np.einsum("dtp,tp->dt", second[:count], first[-1])
    squares = np.square(first[:count]).sum(-1) + np.square(second[:count]).sum(-1)
    scores = products.sum(1) / np.sqrt(squares.sum(1) + 1e-300)
    left_out = (products.sum(1, keepdims=True) - products) / np.sqrt(squares.sum(1, keepdims=True) - squares + 1e-300)
    differences: Any = left_out - left_out[int(scores.argmax())]
    tasks = products.shape[1]
    deviations = differences - differences.mean(1, keepdims=True)
    errors = np.sqrt((tasks - 1) / tasks * np.square(deviations).sum(1))
    return DiscountScores(tuple(scores.tolist()), tuple(errors.tolist()))
