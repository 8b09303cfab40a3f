"""How well a meta-policy adapts: the four-way curve over gradient steps, on tasks it has not seen.

The three comparisons are those of Finn et al. 2017, section 5.3: a policy pretrained on all tasks and fine-tuned
with the same inner loop, a randomly initialised one, and an oracle that is told the task and does not adapt.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from thetaprime.models import AdaptationSpec, MetaPolicy, Parameters, Policy, adapt_step
from thetaprime.training.comparisons import Comparisons, load_comparisons
from thetaprime.training.sampler import collect
from thetaprime.training.tasks import OracleTasks, Task, TaskDistribution, resolve_tasks

GRADIENT_STEPS: Final = 4
METHODS: Final = ("maml", "pretrained", "random")
# Streams of the evaluation's seed: what is drawn for one never shifts what is drawn for another.
_TASKS, _EPISODES, _ORACLE = range(3)

Returns = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """Returns of each method on each test task.

    Attributes:
        meta_policy: ``name@version``.
        seed: of the tasks and episodes.
        trajectories: collected for each gradient step and each return.
        tasks: the test tasks, T of them.
        returns: by method, [K + 1, T] mean undiscounted return after 0..K gradient steps.
        oracle: [T] the oracle's.
    """

    meta_policy: str
    seed: int
    trajectories: int
    tasks: list[Task]
    returns: dict[str, Returns]
    oracle: Returns

    def scores(self, indices: npt.NDArray[np.int64] | slice = slice(None)) -> Returns:
        """S_k = (R_k − R_pretrained,0) / (R_oracle − R_pretrained,0), of means over tasks.

        Args:
            indices: the tasks to take the means over.

        Returns:
            [K + 1]; 0 is the pretrained policy before adaptation, 1 the oracle.
        """
        floor = self.returns["pretrained"][0, indices].mean()
        scores: Returns = (self.returns["maml"][:, indices].mean(1) - floor) / (self.oracle[indices].mean() - floor)
        return scores

    def negative_adaptation(self) -> Returns:
        """[K]: for each k ≥ 1, the share of tasks whose return fell, R_k < R_0."""
        maml = self.returns["maml"]
        share: Returns = (maml[1:] < maml[0]).mean(1)
        return share

    def interval(
        self, statistic: Callable[[npt.NDArray[np.int64]], Returns], *, level: float = 0.95, resamples: int = 2000
    ) -> tuple[Returns, Returns]:
        """Percentile bootstrap over tasks (Efron 1979).

        Args:
            statistic: indices of tasks [T] -> [...].
            level: of confidence.
            resamples: of the tasks, with replacement.

        Returns:
            Lower and upper bounds [...].
        """
        rng = np.random.default_rng(self.seed)
        draws = rng.integers(len(self.tasks), size=(resamples, len(self.tasks)))
        values = np.stack([statistic(draw) for draw in draws])
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return low, high

    def return_interval(self, method: str) -> tuple[Returns, Returns]:
        """95 % interval of a method's mean return, [K + 1] each."""
        return self.interval(functools.partial(_mean_over, self.returns[method]))

    def to_json(self) -> dict[str, object]:
        """The evaluation as one JSON object; lists run over gradient steps."""
        bounds = {method: self.return_interval(method) for method in self.returns}
        score_bounds = self.interval(self.scores)
        return {
            "meta_policy": self.meta_policy,
            "tasks": len(self.tasks),
            "seed": self.seed,
            "trajectories": self.trajectories,
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
            "negative_adaptation": self.negative_adaptation().tolist(),
        }


def evaluate(
    meta_policy: MetaPolicy,
    *,
    tasks: int = 40,
    seed: int = 0,
    gradient_steps: int = GRADIENT_STEPS,
    trajectories: int | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Measures a meta-policy and its comparisons on held-out tasks.

    Every task starts from the same parameters; nothing that one task learns reaches another. Each return is the
    mean over the trajectories that the policy's own stochastic actions gave, which the next step then learns from.

    Args:
        meta_policy: with its comparisons beside it.
        tasks: T, the number of test tasks.
        seed: of the tasks and episodes.
        gradient_steps: K.
        trajectories: N for each step; None for the meta-policy's own number.
        on_step: called after each of the `evaluation_steps` parts of the work.

    Raises:
        ArtifactError: the comparisons are missing.
    """
    manifest = meta_policy.manifest
    distribution = resolve_tasks(manifest.provenance.distribution)
    comparisons = load_comparisons(meta_policy, OracleTasks(distribution).environment)
    N = trajectories or manifest.adaptation.trajectories_per_round
    drawn = list(distribution.sample_tasks(tasks, _stream(seed, _TASKS)))
    starts = {
        "maml": (meta_policy.parameters, meta_policy.step_sizes),
        "pretrained": (comparisons.pretrained, None),
        "random": (comparisons.random, None),
    }
    returns = {
        method: adaptation_curve(
            distribution,
            drawn,
            meta_policy.policy,
            parameters,
            step_sizes,
            manifest.adaptation,
            gradient_steps=gradient_steps,
            trajectories=N,
            seed=seed,
            on_step=on_step,
        )
        for method, (parameters, step_sizes) in starts.items()
    }
    oracle = _oracle_returns(comparisons, distribution, drawn, N, seed)
    on_step()
    return Evaluation(meta_policy.label, seed, N, drawn, returns, oracle)


def evaluation_steps(gradient_steps: int = GRADIENT_STEPS) -> int:
    """How often `evaluate` calls `on_step`."""
    return len(METHODS) * (gradient_steps + 1) + 1


def adaptation_curve(
    distribution: TaskDistribution,
    tasks: Sequence[Task],
    policy: Policy,
    parameters: Parameters,
    step_sizes: Parameters | None,
    adaptation: AdaptationSpec,
    *,
    gradient_steps: int,
    trajectories: int,
    seed: int,
    on_step: Callable[[], None] = lambda: None,
) -> Returns:
    """[K + 1, T]: the mean undiscounted return on each task after 0..K gradient steps."""
    current = [parameters] * len(tasks)
    curve = np.empty((gradient_steps + 1, len(tasks)))
    for step in range(gradient_steps + 1):
        rng = _stream(seed, _EPISODES, step)
        batches = collect(distribution, tasks, policy, current, trajectories, rng=rng)
        curve[step] = [float(batch.returns.mean()) for batch in batches]
        if step < gradient_steps:
            current = [
                adapt_step(policy, each, batch, adaptation, step=step, step_sizes=step_sizes).parameters
                for each, batch in zip(current, batches, strict=True)
            ]
        on_step()
    return curve


def oracle_return(meta_policy: MetaPolicy, task: Task, episodes: int, seed: int) -> float:
    """The oracle's mean undiscounted return on one task."""
    distribution = resolve_tasks(meta_policy.manifest.provenance.distribution)
    comparisons = load_comparisons(meta_policy, OracleTasks(distribution).environment)
    return float(_oracle_returns(comparisons, distribution, [task], episodes, seed)[0])


def _oracle_returns(
    comparisons: Comparisons, distribution: TaskDistribution, tasks: Sequence[Task], trajectories: int, seed: int
) -> Returns:
    batches = collect(
        OracleTasks(distribution),
        tasks,
        comparisons.oracle_policy,
        [comparisons.oracle] * len(tasks),
        trajectories,
        rng=_stream(seed, _ORACLE),
    )
    return np.array([float(batch.returns.mean()) for batch in batches])


def _mean_over(curve: Returns, indices: npt.NDArray[np.int64]) -> Returns:
    mean: Returns = curve[:, indices].mean(1)
    return mean


def _stream(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
