"""Evaluates a meta-policy: returns over gradient steps on held-out tasks, of it and of three comparisons.

The comparisons are those of Finn et al. 2017, section 5.3: a policy pretrained on all tasks and fine-tuned, a randomly
initialized policy and fine-tuned, and an oracle that observes the task and does not adapt. Each fine-tuned comparison
uses the best of `fine_tuning_candidates`, chosen on separate tasks. If the meta-policy's adaptation reduces the action
noise, half of the candidates reduce it, too, and the oracle acts with its learned noise or the reduced noise, whichever
returns more.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from thetaprime.models import (
    AdaptationSpec,
    MetaPolicy,
    Parameters,
    Policy,
    TrajectoryBatch,
    adapt_step,
    with_std_factor,
)
from thetaprime.training.evaluation.comparisons import Comparisons, load_comparisons
from thetaprime.training.evaluation.scores import Evaluation, Returns
from thetaprime.training.resources import MapTasks, available_cores, in_turn, task_threads
from thetaprime.training.sampling.sampler import collect
from thetaprime.training.tasks.distributions import resolve_tasks
from thetaprime.training.tasks.oracle import OracleTasks
from thetaprime.training.tasks.protocol import Task, TaskDistribution

GRADIENT_STEPS: Final = 4
METHODS: Final = ("maml", "pretrained", "random")
BUDGETS: Final = (1, 2, 5, 10, 20, 40)
"""Numbers of trajectories to evaluate a single gradient step with."""
FINE_TUNING_RATES: Final = (0.03, 0.1, 0.3, 1.0)
"""Step sizes to choose from for the comparisons. The paper uses 0.1, and 0.5 in navigation."""
_FINE_TUNING_STEPS: Final = 3
_FINE_TUNING_TASKS: Final = 6
# Streams of the evaluation's seed: the samples of one purpose do not shift those of another.
_TASKS, _EPISODES, _ORACLE, _FINE_TUNING, _BUDGETS = range(5)


def evaluate(
    meta_policy: MetaPolicy,
    *,
    tasks: int = 40,
    seeds: Sequence[int] = (0,),
    gradient_steps: int = GRADIENT_STEPS,
    trajectories: int | None = None,
    budgets: Sequence[int] = BUDGETS,
    on_step: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Measures a meta-policy and its comparisons on held-out tasks.

    Every task starts from the same parameters, and no task affects another. Each return is the mean over trajectories
    with stochastic actions; the next gradient step uses the same trajectories.

    Args:
        meta_policy: an artifact that contains its comparisons.
        tasks: number of test tasks for each seed.
        seeds: each seed samples other tasks and episodes.
        gradient_steps: K.
        trajectories: N for each gradient step; None for the meta-policy's number.
        budgets: numbers of trajectories to evaluate a single gradient step of the meta-policy with.
        on_step: called after each of the `evaluation_steps` parts of the work.

    Raises:
        ArtifactError: the comparisons are missing.
    """
    with task_threads(available_cores()) as each_task:
        return _evaluate(meta_policy, tasks, seeds, gradient_steps, trajectories, budgets, on_step, each_task)


def _evaluate(
    meta_policy: MetaPolicy,
    tasks: int,
    seeds: Sequence[int],
    gradient_steps: int,
    trajectories: int | None,
    budgets: Sequence[int],
    on_step: Callable[[], None],
    each_task: MapTasks,
) -> Evaluation:
    manifest = meta_policy.manifest
    distribution = resolve_tasks(manifest.provenance.distribution)
    comparisons = load_comparisons(meta_policy, OracleTasks(distribution).environment)
    N = trajectories or manifest.adaptation.trajectories_per_round
    curve = functools.partial(
        adaptation_curve, distribution, policy=meta_policy.policy, trajectories=N, each_task=each_task
    )
    starts = {"pretrained": comparisons.pretrained, "random": comparisons.random}
    chosen = {}
    for method, start in starts.items():
        chosen[method] = _fine_tuning(curve, distribution, start, manifest.adaptation, seeds[0], on_step)
    drawn: list[Task] = []
    returns: dict[str, list[Returns]] = {method: [] for method in METHODS}
    oracle: list[Returns] = []
    by_budget: list[Returns] = []
    for seed in seeds:
        of_seed = list(distribution.sample_tasks(tasks, _stream(seed, _TASKS)))
        drawn += of_seed
        for method in METHODS:
            own = method == "maml"
            returns[method].append(
                curve(
                    tasks=of_seed,
                    parameters=meta_policy.parameters if own else starts[method],
                    step_sizes=meta_policy.step_sizes if own else None,
                    adaptation=manifest.adaptation if own else chosen[method],
                    gradient_steps=gradient_steps,
                    seed=seed,
                    on_step=on_step,
                )
            )
        factor = manifest.adaptation.adapted_std_factor
        oracle.append(_oracle_returns(comparisons, distribution, of_seed, N, seed, factor))
        on_step()
        if budgets:
            by_budget.append(
                _returns_by_budget(meta_policy, distribution, of_seed, N, budgets, seed, each_task, on_step)
            )
    return Evaluation(
        meta_policy=meta_policy.label,
        seeds=tuple(seeds),
        trajectories=N,
        tasks=drawn,
        returns={method: np.concatenate(parts, axis=1) for method, parts in returns.items()},
        oracle=np.concatenate(oracle),
        fine_tuning=chosen,
        budgets=tuple(budgets),
        by_budget=np.concatenate(by_budget, axis=1) if by_budget else np.empty((0, len(drawn))),
    )


def _returns_by_budget(
    meta_policy: MetaPolicy,
    distribution: TaskDistribution,
    tasks: Sequence[Task],
    trajectories: int,
    budgets: Sequence[int],
    seed: int,
    each_task: MapTasks,
    on_step: Callable[[], None],
) -> Returns:
    """[B, T]: R_1 after a step on each number of trajectories, always the first ones of one sample."""
    policy, theta, manifest = meta_policy.policy, meta_policy.parameters, meta_policy.manifest
    rng = _stream(seed, _BUDGETS)
    support = collect(distribution, tasks, policy, [theta] * len(tasks), max(budgets), rng=rng)
    take = functools.partial(_adapted, policy, manifest.adaptation, 0, meta_policy.step_sizes)
    returns = np.empty((len(budgets), len(tasks)))
    for row, budget in enumerate(budgets):
        adapted = each_task(take, [(theta, batch.first(budget)) for batch in support])
        query = collect(distribution, tasks, policy, adapted, trajectories, rng=rng)
        returns[row] = [float(batch.returns.mean()) for batch in query]
        on_step()
    return returns


def fine_tuning_candidates(adaptation: AdaptationSpec) -> list[AdaptationSpec]:
    """The fine-tuning settings to choose from: the meta-policy's, and the paper's with several step sizes.

    The paper's settings move all parameters, halve the step size after the first step, and discount as the meta-policy
    does or by 0.99. Each setting comes with the noise of the meta-policy's θ′ and with that of θ.
    """
    plain = {"inner_lr_schedule": (1.0, 0.5), "target_return": None, "normalize_gradient": False}
    ways = [
        adaptation,
        *(
            adaptation.model_copy(update={**plain, "inner_lr": rate, "context_lr": rate, "discount": discount})
            for discount in sorted({adaptation.discount, 0.99})
            for rate in FINE_TUNING_RATES
        ),
    ]
    noises = sorted({adaptation.adapted_std_factor, 1.0})
    return [way.model_copy(update={"adapted_std_factor": noise}) for noise in noises for way in ways]


def _fine_tuning(
    curve: Callable[..., Returns],
    distribution: TaskDistribution,
    parameters: Parameters,
    adaptation: AdaptationSpec,
    seed: int,
    on_step: Callable[[], None],
) -> AdaptationSpec:
    """The fine-tuning candidate with the highest return after a few steps, on separate tasks."""
    tasks = distribution.sample_tasks(_FINE_TUNING_TASKS, _stream(seed, _FINE_TUNING))
    reached = {}
    for spec in fine_tuning_candidates(adaptation):
        returns = curve(
            tasks=tasks,
            parameters=parameters,
            step_sizes=None,
            adaptation=spec,
            gradient_steps=_FINE_TUNING_STEPS,
            seed=seed,
        )
        reached[float(returns[-1].mean())] = spec
        on_step()
    return reached[max(reached)]


def evaluation_steps(
    adaptation: AdaptationSpec, gradient_steps: int = GRADIENT_STEPS, seeds: int = 1, budgets: Sequence[int] = BUDGETS
) -> int:
    """The number of calls to `on_step` by `evaluate`."""
    return (len(METHODS) - 1) * len(fine_tuning_candidates(adaptation)) + seeds * (
        len(METHODS) * (gradient_steps + 1) + 1 + len(budgets)
    )


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
    each_task: MapTasks = in_turn,
) -> Returns:
    """[K + 1, T]: the mean undiscounted return on each task after 0 to K gradient steps."""
    current = [parameters] * len(tasks)
    curve = np.empty((gradient_steps + 1, len(tasks)))
    for step in range(gradient_steps + 1):
        rng = _stream(seed, _EPISODES, step)
        batches = collect(distribution, tasks, policy, current, trajectories, rng=rng)
        curve[step] = [float(batch.returns.mean()) for batch in batches]
        if step < gradient_steps:
            take = functools.partial(_adapted, policy, adaptation, step, step_sizes)
            current = each_task(take, list(zip(current, batches, strict=True)))
        on_step()
    return curve


def _adapted(
    policy: Policy,
    adaptation: AdaptationSpec,
    step: int,
    step_sizes: Parameters | None,
    start: tuple[Parameters, TrajectoryBatch],
) -> Parameters:
    return adapt_step(policy, *start, adaptation, step=step, step_sizes=step_sizes).parameters


def oracle_return(meta_policy: MetaPolicy, task: Task, episodes: int, seed: int) -> float:
    """The oracle's mean undiscounted return on one task."""
    distribution = resolve_tasks(meta_policy.manifest.provenance.distribution)
    comparisons = load_comparisons(meta_policy, OracleTasks(distribution).environment)
    factor = meta_policy.manifest.adaptation.adapted_std_factor
    return float(_oracle_returns(comparisons, distribution, [task], episodes, seed, factor)[0])


def _oracle_returns(
    comparisons: Comparisons,
    distribution: TaskDistribution,
    tasks: Sequence[Task],
    trajectories: int,
    seed: int,
    std_factor: float,
) -> Returns:
    """[T]: the oracle's returns with its learned noise, or with `std_factor` of it if that returns more."""
    reached = []
    for factor in sorted({1.0, std_factor}):
        batches = collect(
            OracleTasks(distribution),
            tasks,
            comparisons.oracle_policy,
            [with_std_factor(comparisons.oracle, factor)] * len(tasks),
            trajectories,
            rng=_stream(seed, _ORACLE),
        )
        reached.append(np.array([float(batch.returns.mean()) for batch in batches]))
    return max(reached, key=np.mean)


def _stream(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
