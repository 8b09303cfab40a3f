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
        tasks: T test tasks, equally many of each seed, ordered by seed.
        fine_tuning: the adaptation settings of each fine-tuned comparison, by method.
        returns: by method, [K + 1, T] mean undiscounted return after 0 to K gradient steps.
        oracle: [T] mean undiscounted return of the oracle.
        budgets: B numbers of trajectories.
        by_budget: [B, T] mean return of the meta-policy after one gradient step on so many trajectories.
    """

    meta_policy: str
    seeds: tuple[int, ...]
    trajectories: int
    tasks: list[Task]
    returns: dict[str, Returns]
    oracle: Returns
    fine_tuning: dict[str, AdaptationSpec] = dataclasses.field(default_factory=dict)
    budgets: tuple[int, ...] = ()
    by_budget: Returns = dataclasses.field(default_factory=lambda: np.empty((0, 0)))

    def scores(self, indices: npt.NDArray[np.int64] | slice = slice(None)) -> Returns:
        """S_k = (R_k − R_pretrained,0) / (R_oracle − R_pretrained,0), of means over tasks.

        Args:
            indices: of the tasks in the means.

        Returns:
            [K + 1]; 0 for the pretrained policy before adaptation, 1 for the oracle.
        """
        return self._normalized(self.returns["maml"], indices)

    def scores_by_budget(self, indices: npt.NDArray[np.int64] | slice = slice(None)) -> Returns:
        """[B]: S_1 by the number of trajectories of the gradient step."""
        return self._normalized(self.by_budget, indices)

    def _normalized(self, returns: Returns, indices: npt.NDArray[np.int64] | slice) -> Returns:
        floor = self.returns["pretrained"][0, indices].mean()
        scores: Returns = (returns[:, indices].mean(1) - floor) / (self.oracle[indices].mean() - floor)
        return scores

    def scores_by_seed(self) -> Returns:
        """[S, K + 1]: S_k over each seed's tasks."""
        return np.stack([self.scores(part) for part in np.array_split(np.arange(len(self.tasks)), len(self.seeds))])

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
        """The evaluation as a JSON object; lists are indexed by gradient step."""
        bounds = {method: self.return_interval(method) for method in self.returns}
        score_bounds = self.interval(self.scores)
        return {
            "meta_policy": self.meta_policy,
            "tasks": len(self.tasks),
            "seeds": list(self.seeds),
            "trajectories": self.trajectories,
            "fine_tuning": {method: spec.model_dump(mode="json") for method, spec in self.fine_tuning.items()},
            "returns": {
                **{method: curve.mean(1).tolist() for method, curve in self.returns.items()},
                "oracle": float(self.oracle.mean()),
            },
            "std_over_tasks": {
                **{method: curve.std(1).tolist() for method, curve in self.returns.items()},
                "oracle": float(self.oracle.std()),
            },
            "returns_interval_95": {method: [low.tolist(), high.tolist()] for method, (low, high) in bounds.items()},
            "scores": self.scores().tolist(),
            "scores_interval_95": [bound.tolist() for bound in score_bounds],
            "scores_by_seed": self.scores_by_seed().tolist(),
            "negative_adaptation": self.negative_adaptation().tolist(),
            "budgets": list(self.budgets),
            **(self._budgets_json() if self.budgets else {}),
        }

    def _budgets_json(self) -> dict[str, object]:
        return {
            "scores_by_budget": self.scores_by_budget().tolist(),
            "scores_by_budget_interval_95": [bound.tolist() for bound in self.interval(self.scores_by_budget)],
        }


def _mean_over(curve: Returns, indices: npt.NDArray[np.int64]) -> Returns:
    mean: Returns = curve[:, indices].mean(1)
    return mean
