"""Returns of a policy that remembers by episode of experience, and of a policy that adapts by gradient beside it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from thetaprime.models import MetaPolicy, RecurrentPolicy
from thetaprime.training.evaluation.comparisons import Comparison, held_comparisons, load_comparison
from thetaprime.training.evaluation.curves import TASKS, OnTrajectories, oracle_returns, session_curve, stream
from thetaprime.training.evaluation.scores import Returns
from thetaprime.training.resources import available_cores, task_threads
from thetaprime.training.sampling.lifetimes import collect_lifetimes
from thetaprime.training.sampling.sampler import collect
from thetaprime.training.tasks.distributions import resolve_tasks
from thetaprime.training.tasks.protocol import Task, TaskDistribution

_LIFETIMES, _COMPARISONS = 100, 101  # streams of an evaluation's seed, beside those of `curves`
_AT_ONCE: Final = 40
_TRAJECTORIES: Final = 5
"""Trajectories of a comparison on each task."""


@dataclasses.dataclass(frozen=True)
class LifetimePlan:
    """What an evaluation of lifetimes measures.

    Attributes:
        tasks: number of test tasks for each seed.
        seeds: each seed samples other tasks and episodes.
        episodes: n of each lifetime.
    """

    tasks: int = 40
    seeds: tuple[int, ...] = (0,)
    episodes: int = 10


@dataclasses.dataclass(frozen=True, eq=False)
class GradientBranch:
    """A policy that adapts by gradient, on the same tasks.

    Attributes:
        meta_policy: ``name@version``.
        trajectories: N of each round.
        returns: [K + 1, T] mean undiscounted return after 0 to K rounds.
    """

    meta_policy: str
    trajectories: int
    returns: Returns

    def by_episode(self, episodes: int) -> Returns:
        """[n, T]: the mean return in each of n episodes of experience: θ_k acts in episodes k·N + 1 to (k + 1)·N."""
        rounds = np.minimum(np.arange(episodes) // self.trajectories, len(self.returns) - 1)
        found: Returns = self.returns[rounds]
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class LifetimeEvaluation:
    """Returns of a policy that remembers on each test task.

    Attributes:
        meta_policy: ``name@version``.
        seeds: of the tasks and episodes.
        tasks: T test tasks, equally many of each seed.
        returns: [n, T] undiscounted return in each episode of a lifetime.
        comparisons: mean undiscounted return [T] of the pretrained policy and of the oracle, of those that were
            measured.
        gradient: a policy that adapts by gradient; None if none was measured.
    """

    meta_policy: str
    seeds: tuple[int, ...]
    tasks: list[Task]
    returns: Returns
    comparisons: dict[str, Returns]
    gradient: GradientBranch | None = None

    @property
    def scored(self) -> bool:
        """Whether the policies that a score needs were measured."""
        return {"pretrained", "oracle"} <= self.comparisons.keys()

    def scores(self, returns: Returns | None = None, indices: npt.NDArray[np.int64] | slice = slice(None)) -> Returns:
        """[n]: S of each episode, (R − R_pretrained) / (R_oracle − R_pretrained), of means over tasks.

        Args:
            returns: [n, T]; None for those of the policy that remembers.
            indices: of the tasks in the means.

        Raises:
            ValueError: the evaluation is not `scored`.
        """
        if not self.scored:
            raise ValueError("a score needs a pretrained policy and an oracle")
        floor, ceiling = (self.comparisons[name][indices].mean() for name in ("pretrained", "oracle"))
        curve = self.returns if returns is None else returns
        scores: Returns = (curve[:, indices].mean(1) - floor) / (ceiling - floor)
        return scores

    def interval(
        self, statistic: Callable[[npt.NDArray[np.int64]], Returns], *, level: float = 0.95, resamples: int = 2000
    ) -> tuple[Returns, Returns]:
        """Confidence interval by percentile bootstrap over tasks (Efron 1979): lower and upper bounds."""
        rng = np.random.default_rng(self.seeds)
        draws = rng.integers(len(self.tasks), size=(resamples, len(self.tasks)))
        values = np.stack([statistic(draw) for draw in draws])
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return low, high

    def return_interval(self) -> tuple[Returns, Returns]:
        """Lower and upper bounds [n] of the 95 % interval of the mean return by episode."""
        return self.interval(lambda draw: self.returns[:, draw].mean(1))

    def score_interval(self) -> tuple[Returns, Returns]:
        """Lower and upper bounds [n] of the 95 % interval of the score by episode."""
        return self.interval(lambda draw: self.scores(indices=draw))

    def to_json(self) -> dict[str, object]:
        """The evaluation as a JSON object; lists are indexed by episode, from the first."""
        beside = self.gradient
        return {
            "meta_policy": self.meta_policy,
            "tasks": len(self.tasks),
            "seeds": list(self.seeds),
            "episodes": len(self.returns),
            "returns_by_episode": self.returns.mean(1).tolist(),
            "std_over_tasks": self.returns.std(1).tolist(),
            "returns_interval_95": [bound.tolist() for bound in self.return_interval()],
            "comparisons": {name: float(each.mean()) for name, each in self.comparisons.items()},
            "scores_by_episode": self.scores().tolist() if self.scored else None,
            "scores_interval_95": [bound.tolist() for bound in self.score_interval()] if self.scored else None,
            "gradient": None
            if beside is None
            else {
                "meta_policy": beside.meta_policy,
                "trajectories": beside.trajectories,
                "returns_by_round": beside.returns.mean(1).tolist(),
                "scores_by_round": self.scores(beside.returns).tolist() if self.scored else None,
            },
        }


def evaluate_lifetimes(
    meta_policy: MetaPolicy,
    plan: LifetimePlan = LifetimePlan(),
    *,
    beside: MetaPolicy | None = None,
    on_trajectories: OnTrajectories = lambda count: None,
) -> LifetimeEvaluation:
    """Measures a policy that remembers, its comparisons, and a policy that adapts by gradient, on held-out tasks.

    Every task is one lifetime, with stochastic actions.

    Args:
        meta_policy: an artifact with a memory.
        plan: what to measure.
        beside: an artifact for the same tasks that adapts by gradient, by the rounds of a session of the service;
            None for none.
        on_trajectories: called with the number of trajectories that were just sampled; `lifetime_work` is their sum.

    Raises:
        ValueError: the artifact has no memory, or the one beside it has one or is of other tasks.
        ArtifactError: a comparison is damaged.
    """
    network = meta_policy.network
    if not isinstance(network, RecurrentPolicy):
        raise ValueError(f"{meta_policy.label} has no memory; expected one that was trained by method rl2")
    tasks_of = meta_policy.manifest.provenance.distribution
    if beside is not None and beside.manifest.provenance.distribution != tasks_of:
        raise ValueError(
            f"{beside.label} was trained on {beside.manifest.provenance.distribution}, {meta_policy.label} on "
            f"{tasks_of}; expected the same tasks"
        )
    distribution = resolve_tasks(tasks_of)
    comparisons = {name: load_comparison(meta_policy, name, distribution) for name in lifetime_comparisons(meta_policy)}
    tasks: list[Task] = []
    returns, by_gradient = list[Returns](), list[Returns]()
    compared: dict[str, list[Returns]] = {name: [] for name in comparisons}
    with task_threads(available_cores()) as each_task:
        for seed in plan.seeds:
            sampled = list(distribution.sample_tasks(plan.tasks, stream(seed, TASKS)))
            for group, start in enumerate(range(0, len(sampled), _AT_ONCE)):
                some = sampled[start : start + _AT_ONCE]
                rng = stream(seed, _LIFETIMES, group)
                lived = collect_lifetimes(distribution, some, network, meta_policy.parameters, plan.episodes, rng=rng)
                returns.append(lived.returns(plan.episodes))
                on_trajectories(len(some) * plan.episodes)
                for name, comparison in comparisons.items():
                    compared[name].append(_compared_returns(name, comparison, distribution, some, seed, group))
                    on_trajectories(len(some) * _TRAJECTORIES)
                if beside is not None:
                    by_gradient.append(
                        session_curve(
                            beside,
                            distribution,
                            some,
                            gradient_steps=_rounds(beside, plan.episodes),
                            trajectories=beside.manifest.adaptation.trajectories_per_round,
                            seed=seed,
                            group=group,
                            on_trajectories=on_trajectories,
                            each_task=each_task,
                        )
                    )
                tasks += some
    branch = None
    if beside is not None:
        count = beside.manifest.adaptation.trajectories_per_round
        branch = GradientBranch(beside.label, count, np.concatenate(by_gradient, 1))
    return LifetimeEvaluation(
        meta_policy=meta_policy.label,
        seeds=plan.seeds,
        tasks=tasks,
        returns=np.concatenate(returns, 1),
        comparisons={name: np.concatenate(parts) for name, parts in compared.items()},
        gradient=branch,
    )


def lifetime_work(plan: LifetimePlan, comparisons: int, beside: MetaPolicy | None = None) -> int:
    """The number of trajectories that `evaluate_lifetimes` samples, with so many comparisons."""
    of_task = plan.episodes + _TRAJECTORIES * comparisons
    if beside is not None:
        rounds = _rounds(beside, plan.episodes)
        of_task += (rounds + 1) * beside.manifest.adaptation.trajectories_per_round
    return of_task * plan.tasks * len(plan.seeds)


def lifetime_comparisons(meta_policy: MetaPolicy) -> list[str]:
    """The comparisons of an artifact that are measured beside lifetimes."""
    return [name for name in held_comparisons(meta_policy) if name in ("pretrained", "oracle")]


def _rounds(beside: MetaPolicy, episodes: int) -> int:
    """The rounds that end before the last of so many episodes."""
    return (episodes - 1) // beside.manifest.adaptation.trajectories_per_round


def _compared_returns(
    name: str, comparison: Comparison, distribution: TaskDistribution, tasks: Sequence[Task], seed: int, group: int
) -> Returns:
    if name == "oracle":
        found: Returns = oracle_returns(comparison, distribution, tasks, _TRAJECTORIES, [1.0], seed=seed, group=group)[
            0
        ]
        return found
    parameters = [comparison.parameters] * len(tasks)
    rng = stream(seed, _COMPARISONS, group)
    batches = collect(distribution, tasks, comparison.policy, parameters, _TRAJECTORIES, rng=rng)
    return np.array([float(batch.returns.mean()) for batch in batches])
