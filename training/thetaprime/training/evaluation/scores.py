"""The result of an evaluation, and its scores."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from thetaprime.models import AdaptationSpec
from thetaprime.training.tasks.protocol import Task

Returns = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """Returns of each method on each test task.

    Attributes:
        meta_policy: ``name@version``.
        seeds: S seeds of the tasks and episodes.
        trajectories: number for each gradient step and each return.
        tasks: T test tasks, equally many of each seed, ordered by seed; fewer of the last seed while the evaluation
            is unfinished.
        fine_tuning: the adaptation settings of each fine-tuned comparison, by method.
        returns: by measured method, [K + 1, T] mean undiscounted return after 0 to K gradient steps.
        oracle: [T] mean undiscounted return of the oracle; None if it was not measured.
        budgets: B numbers of trajectories.
        by_budget: [B, T] mean return of the meta-policy after one gradient step on so many trajectories.
        tasks_per_seed: number of tasks of each seed but the last; None for T / S.
    """

    meta_policy: str
    seeds: tuple[int, ...]
    trajectories: int
    tasks: list[Task]
    returns: dict[str, Returns]
    oracle: Returns | None
    fine_tuning: dict[str, AdaptationSpec] = dataclasses.field(default_factory=dict)
    budgets: tuple[int, ...] = ()
    by_budget: Returns = dataclasses.field(default_factory=lambda: np.empty((0, 0)))
    tasks_per_seed: int | None = None

    @property
    def scored(self) -> bool:
        """Whether the methods that a score needs were measured: the meta-policy, the pretrained policy, the oracle."""
        return {"maml", "pretrained"} <= self.returns.keys() and self.oracle is not None

    def scores(self, indices: npt.NDArray[np.int64] | slice = slice(None)) -> Returns:
        """S_k = (R_k − R_pretrained,0) / (R_oracle − R_pretrained,0), of means over tasks.

        Args:
            indices: of the tasks in the means.

        Returns:
            [K + 1]; 0 for the pretrained policy before adaptation, 1 for the oracle.

        Raises:
            ValueError: the evaluation is not `scored`.
        """
        return self._normalized(self.returns["maml"], indices)

    def scores_by_budget(self, indices: npt.NDArray[np.int64] | slice = slice(None)) -> Returns:
        """[B]: S_1 by the number of trajectories of the gradient step."""
        return self._normalized(self.by_budget, indices)

    def _normalized(self, returns: Returns, indices: npt.NDArray[np.int64] | slice) -> Returns:
        if self.oracle is None or not self.scored:
            raise ValueError("a score needs the methods maml, pretrained and oracle")
        floor = self.returns["pretrained"][0, indices].mean()
        scores: Returns = (returns[:, indices].mean(1) - floor) / (self.oracle[indices].mean() - floor)
        return scores

    def scores_by_seed(self) -> Returns:
        """[S, K + 1]: S_k over each seed's tasks."""
        size = self.tasks_per_seed or len(self.tasks) // len(self.seeds)
        starts = range(0, size * len(self.seeds), size)
        return np.stack([self.scores(slice(start, start + size)) for start in starts])

    def negative_adaptation(self) -> Returns:
        """[K]: for each k ≥ 1, the fraction of tasks with a lower return than before adaptation, R_k < R_0."""
        maml = self.returns["maml"]
        share: Returns = (maml[1:] < maml[0]).mean(1)
        return share

    def interval(
        self, statistic: Callable[[npt.NDArray[np.int64]], Returns], *, level: float = 0.95, resamples: int = 2000
    ) -> tuple[Returns, Returns]:
        """Confidence interval by percentile bootstrap over tasks (Efron 1979).

        Args:
            statistic: indices of tasks [T] -> [...].
            level: of confidence.
            resamples: number of resamples of the tasks, with replacement.

        Returns:
            Lower and upper bounds [...].
        """
        rng = np.random.default_rng(self.seeds)
        draws = rng.integers(len(self.tasks), size=(resamples, len(self.tasks)))
        values = np.stack([statistic(draw) for draw in draws])
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return low, high

    def return_interval(self, method: str) -> tuple[Returns, Returns]:
        """Lower and upper bounds [K + 1] of the 95 % interval of a method's mean return."""
        return self.interval(functools.partial(_mean_over, self.returns[method]))

    def to_json(self) -> dict[str, object]:
        """The evaluation as a JSON object; lists are indexed by gradient step.

        Scores are null unless the evaluation is `scored`, and negative adaptation is null without the meta-policy.
        """
        bounds = {method: self.return_interval(method) for method in self.returns}
        oracle = {} if self.oracle is None else {"oracle": self.oracle}
        return {
            "meta_policy": self.meta_policy,
            "tasks": len(self.tasks),
            "seeds": list(self.seeds),
            "trajectories": self.trajectories,
            "fine_tuning": {method: spec.model_dump(mode="json") for method, spec in self.fine_tuning.items()},
            "returns": {
                **{method: curve.mean(1).tolist() for method, curve in self.returns.items()},
                **{method: float(returns.mean()) for method, returns in oracle.items()},
            },
            "std_over_tasks": {
                **{method: curve.std(1).tolist() for method, curve in self.returns.items()},
                **{method: float(returns.std()) for method, returns in oracle.items()},
            },
            "returns_interval_95": {method: [low.tolist(), high.tolist()] for method, (low, high) in bounds.items()},
            "scores": self.scores().tolist() if self.scored else None,
            "scores_interval_95": self._interval_json(self.scores),
            "scores_by_seed": self.scores_by_seed().tolist() if self.scored else None,
            "negative_adaptation": self.negative_adaptation().tolist() if "maml" in self.returns else None,
            "budgets": list(self.budgets),
            **(self._budgets_json() if self.budgets else {}),
        }

    def _budgets_json(self) -> dict[str, object]:
        return {
            "returns_by_budget": self.by_budget.mean(1).tolist(),
            "scores_by_budget": self.scores_by_budget().tolist() if self.scored else None,
            "scores_by_budget_interval_95": self._interval_json(self.scores_by_budget),
        }

    def _interval_json(self, statistic: Callable[[npt.NDArray[np.int64]], Returns]) -> list[list[float]] | None:
        return [bound.tolist() for bound in self.interval(statistic)] if self.scored else None


def _mean_over(curve: Returns, indices: npt.NDArray[np.int64]) -> Returns:
    mean: Returns = curve[:, indices].mean(1)
    return mean
