"""Evaluates a meta-policy: returns over gradient steps on held-out tasks, of it and of three comparisons.

The comparisons are those of Finn et al. 2017, section 5.3: a policy pretrained on all tasks and fine-tuned, a randomly
initialized policy and fine-tuned, and an oracle that observes the task and does not adapt. Each fine-tuned comparison
uses the settings that the artifact stores, which were chosen on separate tasks. If the meta-policy's adaptation reduces
the action noise, half of the candidates reduce it, too, and the oracle acts with its learned noise or the reduced
noise, whichever returns more.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from thetaprime.models import AdaptationSpec, MetaPolicy
from thetaprime.training.evaluation.comparisons import (
    COMPARISONS,
    FINE_TUNED,
    Comparison,
    held_comparisons,
    load_comparison,
)
from thetaprime.training.evaluation.curves import (
    TASKS,
    OnTrajectories,
    adaptation_curve,
    best_noise,
    oracle_noises,
    oracle_returns,
    returns_by_budget,
    session_curve,
    stream,
)
from thetaprime.training.evaluation.fine_tuning import (
    FINE_TUNING_TASKS,
    FineTuning,
    stored_fine_tuning,
    tune_comparison,
    tuning_trajectories,
)
from thetaprime.training.evaluation.scores import Evaluation, Returns
from thetaprime.training.resources import MapTasks, available_cores, task_threads
from thetaprime.training.tasks.distributions import resolve_tasks
from thetaprime.training.tasks.protocol import Task, TaskDistribution

GRADIENT_STEPS: Final = 4
METHODS: Final = ("maml", *COMPARISONS)
"""The methods that an evaluation can measure."""
BUDGETS: Final = (1, 2, 5, 10, 20, 40)
"""Numbers of trajectories to evaluate a single gradient step with."""
TASKS_AT_ONCE: Final = 8
"""Tasks that are sampled side by side: more save little time, and their results come later."""


@dataclasses.dataclass(frozen=True)
class EvaluationPlan:
    """What an evaluation measures.

    Attributes:
        tasks: number of test tasks for each seed.
        seeds: each seed samples other tasks and episodes.
        methods: of `METHODS`, those to measure.
        gradient_steps: K.
        trajectories: N for each gradient step; None for the meta-policy's number.
        budgets: numbers of trajectories to evaluate a single gradient step of the meta-policy with.
        tuning_tasks: number of separate tasks on which a comparison's fine-tuning settings are chosen where none are
            stored; 0 for the meta-policy's own settings.

    Raises:
        ValueError: a method is unknown, or there is none.
    """

    tasks: int = 40
    seeds: tuple[int, ...] = (0,)
    methods: tuple[str, ...] = METHODS
    gradient_steps: int = GRADIENT_STEPS
    trajectories: int | None = None
    budgets: tuple[int, ...] = BUDGETS
    tuning_tasks: int = FINE_TUNING_TASKS

    def __post_init__(self) -> None:
        if not self.methods or not set(self.methods) <= set(METHODS):
            raise ValueError(f"methods: {', '.join(self.methods) or 'none'}; expected some of {', '.join(METHODS)}")

    @property
    def fine_tuned(self) -> list[str]:
        """The methods that need fine-tuning settings."""
        return [method for method in FINE_TUNED if method in self.methods]

    def trajectories_of(self, adaptation: AdaptationSpec) -> int:
        """N for a meta-policy with these adaptation settings."""
        return self.trajectories or adaptation.trajectories_per_round

    def work(self, adaptation: AdaptationSpec, tuned: int = 0) -> int:
        """The number of trajectories that an evaluation samples.

        Args:
            adaptation: the meta-policy's.
            tuned: number of comparisons whose settings are chosen first.
        """
        N = self.trajectories_of(adaptation)
        of_task = sum(N * (self.gradient_steps + 1) for method in self.methods if method != "oracle")
        if "oracle" in self.methods:
            of_task += N * len(oracle_noises(adaptation))
        if "maml" in self.methods and self.budgets:
            of_task += max(self.budgets) + N * len(self.budgets)
        return tuned * tuning_trajectories(adaptation, N, self.tuning_tasks) + len(self.seeds) * self.tasks * of_task


def evaluate(
    meta_policy: MetaPolicy,
    plan: EvaluationPlan = EvaluationPlan(),
    *,
    fine_tuning: FineTuning | None = None,
    on_trajectories: OnTrajectories = lambda count: None,
    on_tasks: Callable[[Evaluation], None] = lambda evaluation: None,
) -> Evaluation:
    """Measures a meta-policy and its comparisons on held-out tasks.

    Every task starts from the same parameters, and no task affects another. Each return is the mean over trajectories
    with stochastic actions; the next gradient step uses the same trajectories.

    Args:
        meta_policy: an artifact that holds the comparisons of the plan.
        plan: what to measure.
        fine_tuning: settings of the fine-tuned comparisons; None for those that the artifact stores. Settings that are
            in neither are chosen first, which can take longer than the measurement.
        on_trajectories: called with the number of trajectories that were just sampled; `evaluation_work` is their sum.
        on_tasks: called with the evaluation of all finished tasks, whenever more tasks have finished.

    Raises:
        ArtifactError: a comparison is missing.
    """
    with task_threads(available_cores()) as each_task:
        measurement = _Measurement(meta_policy, plan, fine_tuning, on_trajectories, each_task)
        for seed in plan.seeds:
            tasks = list(measurement.distribution.sample_tasks(plan.tasks, stream(seed, TASKS)))
            for group, start in enumerate(range(0, len(tasks), TASKS_AT_ONCE)):
                measurement.measure(tasks[start : start + TASKS_AT_ONCE], seed, group)
                on_tasks(measurement.evaluation())
        return measurement.evaluation()


def held_methods(meta_policy: MetaPolicy) -> tuple[str, ...]:
    """The methods that can be measured with an artifact: its adaptation, and the comparisons that it holds."""
    return ("maml", *held_comparisons(meta_policy))


def evaluation_work(meta_policy: MetaPolicy, plan: EvaluationPlan) -> int:
    """The number of trajectories that `evaluate` samples with the settings that the artifact stores."""
    missing = set(plan.fine_tuned) - set(stored_fine_tuning(meta_policy, plan.fine_tuned))
    return plan.work(meta_policy.manifest.adaptation, len(missing))


def tune_comparisons(
    meta_policy: MetaPolicy,
    methods: tuple[str, ...],
    *,
    seed: int,
    tasks: int = FINE_TUNING_TASKS,
    on_trajectories: OnTrajectories = lambda count: None,
) -> FineTuning:
    """The settings of some fine-tuned comparisons, chosen afresh on separate tasks.

    Args:
        meta_policy: an artifact that holds them.
        methods: of `FINE_TUNED`.
        seed: of the tasks and episodes to choose on.
        tasks: number of tasks to choose on; 0 for the meta-policy's own settings.
        on_trajectories: see `evaluate`.
    """
    if not methods:
        return {}
    plan = EvaluationPlan(seeds=(seed,), methods=methods, tuning_tasks=tasks)
    with task_threads(available_cores()) as each_task:
        return _Measurement(meta_policy, plan, {}, on_trajectories, each_task).fine_tuning


class _Measurement:
    """The results of an evaluation that grows by groups of tasks.

    Attributes:
        distribution: of the tasks.
        fine_tuning: settings of the fine-tuned comparisons.
    """

    def __init__(
        self,
        meta_policy: MetaPolicy,
        plan: EvaluationPlan,
        fine_tuning: FineTuning | None,
        on_trajectories: OnTrajectories,
        each_task: MapTasks,
    ) -> None:
        self._meta_policy, self._plan = meta_policy, plan
        self._adaptation = meta_policy.manifest.adaptation
        self._trajectories = plan.trajectories_of(self._adaptation)
        self._on_trajectories, self._each_task = on_trajectories, each_task
        self.distribution: TaskDistribution = resolve_tasks(meta_policy.manifest.provenance.distribution)
        self._comparisons: dict[str, Comparison] = {
            method: load_comparison(meta_policy, method, self.distribution)
            for method in plan.methods
            if method != "maml"
        }
        self._tasks: list[Task] = []
        self._seeds: list[int] = []
        self._returns: dict[str, list[Returns]] = {method: [] for method in plan.methods}
        self._by_budget: list[Returns] = []
        if fine_tuning is None:
            fine_tuning = stored_fine_tuning(meta_policy, plan.fine_tuned)
        self.fine_tuning: FineTuning = {
            method: fine_tuning[method] if method in fine_tuning else self._tuned(method) for method in plan.fine_tuned
        }

    def _tuned(self, method: str) -> AdaptationSpec:
        return tune_comparison(
            self.distribution,
            self._comparisons[method].policy,
            self._comparisons[method].parameters,
            self._adaptation,
            count=self._plan.tuning_tasks,
            trajectories=self._trajectories,
            seed=self._plan.seeds[0],
            on_trajectories=self._on_trajectories,
            each_task=self._each_task,
        )

    def measure(self, tasks: Sequence[Task], seed: int, group: int) -> None:
        """Measures every method on some tasks, and keeps the results once all are there."""
        found = {method: self._measured(method, tasks, seed, group) for method in self._plan.methods}
        if "maml" in found and self._plan.budgets:
            self._by_budget.append(
                returns_by_budget(
                    self._meta_policy,
                    self.distribution,
                    tasks,
                    self._trajectories,
                    self._plan.budgets,
                    seed=seed,
                    group=group,
                    on_trajectories=self._on_trajectories,
                    each_task=self._each_task,
                )
            )
        for method, returns in found.items():
            self._returns[method].append(returns)
        self._tasks += tasks
        self._seeds += [seed] * len(tasks)

    def _measured(self, method: str, tasks: Sequence[Task], seed: int, group: int) -> Returns:
        if method == "oracle":
            return oracle_returns(
                self._comparisons["oracle"],
                self.distribution,
                tasks,
                self._trajectories,
                oracle_noises(self._adaptation),
                seed=seed,
                group=group,
                on_trajectories=self._on_trajectories,
            )
        if method == "maml":
            return session_curve(
                self._meta_policy,
                self.distribution,
                tasks,
                gradient_steps=self._plan.gradient_steps,
                trajectories=self._trajectories,
                seed=seed,
                group=group,
                on_trajectories=self._on_trajectories,
                each_task=self._each_task,
            )
        start = self._comparisons[method]
        return adaptation_curve(
            self.distribution,
            tasks,
            start.policy,
            start.parameters,
            None,
            self.fine_tuning[method],
            gradient_steps=self._plan.gradient_steps,
            trajectories=self._trajectories,
            seed=seed,
            group=group,
            on_trajectories=self._on_trajectories,
            each_task=self._each_task,
        )

    def evaluation(self) -> Evaluation:
        """The evaluation of the tasks that were measured so far."""
        returns = {method: np.concatenate(parts, axis=1) for method, parts in self._returns.items()}
        oracle = returns.pop("oracle", None)
        budgets = self._plan.budgets if self._by_budget else ()
        return Evaluation(
            meta_policy=self._meta_policy.label,
            seeds=tuple(dict.fromkeys(self._seeds)),
            trajectories=self._trajectories,
            tasks=list(self._tasks),
            returns=returns,
            oracle=None if oracle is None else best_noise(oracle),
            fine_tuning=dict(self.fine_tuning),
            budgets=budgets,
            by_budget=np.concatenate(self._by_budget, axis=1) if budgets else np.empty((0, len(self._tasks))),
            tasks_per_seed=self._plan.tasks,
        )
