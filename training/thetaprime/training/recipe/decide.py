"""The rules of recipe "auto": from measurements to settings, each with its reason. Nothing here runs an episode."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from thetaprime.models import Decision, PolicySpec
from thetaprime.training.config import RL2Spec
from thetaprime.training.recipe.probe import DISCOUNTS, DiscountScores, Measurements

PROBE_NETWORK: Final = PolicySpec(
    hidden_sizes=(64, 64), activation="tanh", context_size=4, init_output_scale=0.1, init_log_std=-0.5
)
"""The network that probes, and the shape of the one that is trained."""
DEFAULT_MINUTES: Final = 30.0
"""Budget of a run that is given none."""
_INNER_PRIOR, _OUTER_PRIOR, _LIFETIME_PRIOR = 0.8, 0.97, 0.99
_TOLERANCE, _EARLY_TOLERANCE = 0.05, 0.1
_NOISE_STEP: Final = 0.2
_ITERATIONS: Final = 300
FEWEST_TASKS, _MOST_TASKS = 8, 40
FEWEST_TRAJECTORIES, _MOST_TRAJECTORIES = 10, 20
_USUAL_TASKS: Final = 20
_LIFETIME_STEPS: Final = 20_000
_FEWEST_LIFETIMES, _MOST_LIFETIMES = 16, 128


_Settle = Callable[[str, Any, str], None]


class BudgetError(ValueError):
    """The time is too short for one iteration."""


def decide(
    measured: Measurements, given: Mapping[str, Any], *, horizon: int, cores: int, spreads: bool = False
) -> dict[str, Decision]:
    """The settings for a task distribution, by dotted name of `TrainConfig`, without the sizes of an iteration.

    Args:
        measured: by `probe`.
        given: settings that a file or a flag fixes, by dotted name; the others follow from them.
        horizon: H of the tasks.
        cores: of this machine.
        spreads: whether the distribution makes tasks of points.
    """
    decisions, settle = _collector(given)
    _observation(measured, settle)
    settle("policy.hidden_sizes", list(PROBE_NETWORK.hidden_sizes), "two layers, small enough for a device")
    settle("policy.activation", PROBE_NETWORK.activation, "smooth in θ, so that the outer gradient is")
    settle("policy.init_output_scale", PROBE_NETWORK.init_output_scale, "actions start near the middle of their bounds")
    if measured.log_std is not None:
        settle("policy.init_log_std", measured.log_std, _noise_reason(measured))
    _context(measured, given, settle)
    # Where episodes end early, nothing later can be measured: a usual discount needs less to be kept.
    tolerance = _TOLERANCE if measured.episode_length >= 0.5 * horizon else _EARLY_TOLERANCE
    settle("adaptation.discount", *_discount(measured.inner, _INNER_PRIOR, tolerance))
    settle("outer_discount", *_discount(measured.outer, _OUTER_PRIOR, tolerance))
    settle("outer_gae_lambda", 0.95, "less noise than 1 at little bias")
    loop = given.get("outer_loop", "maml_trpo")
    settle("outer_loop", "maml_trpo", "each step uses the whole trust region, from the first iteration on")
    settle("fisher_fraction", 0.5, "few trajectories of each task suffice for the curvature")
    if loop in ("promp", "maml_trpo"):
        settle("adaptation.curvature", "ratio", "counts how θ changes the samples, with little noise")
    if loop in ("promp", "dice"):
        settle("outer_epochs", 10, "bounded by max_kl")
        settle("outer_lr", 1e-3, "of Adam, bounded by max_kl")
    settle("max_kl", 0.03, "rewards are normalized for each task, so that one bound fits all")
    settle("learn_step_sizes", True, "the first step sizes need not be exact")
    if spreads:
        settle("spread_tasks", True, "the class has tasks_at: a meta-batch that is spread evenly has less noise")
    settle("threads", cores, "the cores of this machine")
    return decisions


def decide_memory(
    measured: Measurements, given: Mapping[str, Any], *, horizon: int, cores: int, spreads: bool = False
) -> dict[str, Decision]:
    """The settings of method rl2 for a task distribution, by dotted name of `TrainConfig`; arguments as of `decide`."""
    decisions, settle = _collector(given)
    settle("policy.hidden_sizes", [64], "one layer after the memory, small enough for a device")
    settle("policy.activation", PROBE_NETWORK.activation, "smooth")
    settle("policy.init_output_scale", PROBE_NETWORK.init_output_scale, "actions start near the middle of their bounds")
    if measured.log_std is not None:
        settle("policy.init_log_std", measured.log_std, _noise_reason(measured))
    settle("policy.memory.size", 64, "more than a task's numbers and what tells them apart")
    tolerance = _TOLERANCE if measured.episode_length >= 0.5 * horizon else _EARLY_TOLERANCE
    settle("rl2.discount", *_discount(measured.outer, _LIFETIME_PRIOR, tolerance))
    settle("rl2.learning_rate", 1e-3, "of Adam; max_kl ends an iteration that moves too far")
    settle("rl2.chunk_steps", 50, "steps of backpropagation: the memory's state is kept for longer")
    episodes = given.get("rl2.episodes", RL2Spec().episodes)
    # Episodes grow as the policy learns to keep going.
    length = math.sqrt(measured.episode_length * horizon)
    tasks = int(min(_MOST_LIFETIMES, max(_FEWEST_LIFETIMES, _LIFETIME_STEPS / (episodes * length))))
    settle("meta_batch_size", tasks, f"about {_LIFETIME_STEPS:,} steps in lifetimes of {episodes} x {length:.0f}")
    if spreads:
        settle("spread_tasks", True, "the class has tasks_at: a meta-batch that is spread evenly has less noise")
    settle("threads", cores, "the cores of this machine")
    return decisions


def _observation(measured: Measurements, settle: _Settle) -> None:
    std = measured.observation_std
    span = f"{min(std):.3g} to {max(std):.3g}" if len(std) > 1 else f"{std[0]:.3g}"
    seen = f"over {measured.episodes} episodes of {measured.tasks} tasks"
    settle("policy.observation_mean", list(measured.observation_mean), f"measured {seen}")
    settle("policy.observation_std", list(std), f"measured {seen}: deviations of {span}")


def _noise_reason(measured: Measurements) -> str:
    tried = ", ".join(f"{math.exp(log):.2g}: {length:.0f}" for log, length in measured.lengths_by_log_std.items())
    return f"the loudest noise that does not end episodes early (steps of an episode by deviation: {tried})"


def _context(measured: Measurements, given: Mapping[str, Any], settle: _Settle) -> None:
    size = max(4, min(8, 2 * measured.task_size))
    settle("policy.context_size", size, f"a task has {measured.task_size} numbers: twice as many, from 4 to 8")
    if given.get("policy.context_size", size) == 0:
        settle("adaptation.inner_lr", 0.1, "without a context every parameter adapts")
        settle("adaptation.inner_lr_schedule", [1.0, 0.5], "later steps refine the first")
        return
    settle("adaptation.inner_lr", 0.0, "only the context adapts: few numbers tell a task from few episodes")
    settle("adaptation.normalize_gradient", True, "the gradient's length is mostly noise; its direction tells the task")
    target = _target_return(measured, given)
    if target is None:
        settle("adaptation.inner_lr_schedule", [1.0, 0.1], "at the task, a step of one length only overshoots")
    else:
        settle("adaptation.inner_lr_schedule", [1.0, 0.5], "later steps refine the first")
        settle("adaptation.target_return", target, "no reward exceeds 0, so no return does")
        gap = float(f"{abs(target - measured.median_return):.2g}")
        settle("adaptation.return_gap", gap or 1.0, "the median task's at first: far from the target, steps are longer")


def _target_return(measured: Measurements, given: Mapping[str, Any]) -> float | None:
    """R*, if it is given or known. Normalized advantages show on which side a goal lies; the gap shows how far away."""
    target: float | None = given.get("adaptation.target_return", 0.0 if measured.highest_reward <= 0.0 else None)
    return target


def _discount(scores: DiscountScores, prior: float, tolerance: float) -> tuple[float, str]:
    """The discount nearest to a usual one among those that are as good as the best."""
    best = max(scores.scores)
    index = scores.scores.index(best)
    if best <= 0.0:
        return prior, "no discount showed a signal beyond its noise: the usual one"
    good = [
        discount
        for discount, score, error in zip(DISCOUNTS, scores.scores, scores.errors, strict=True)
        if best - score <= max(error, tolerance * best)
    ]
    chosen = min(good, key=lambda discount: abs(math.log1p(-discount) - math.log1p(-prior)))
    gains = ", ".join(f"{d:g}: {s / best:.2f}" for d, s in zip(DISCOUNTS, scores.scores, strict=True))
    return chosen, f"gain of a step by discount, best {DISCOUNTS[index]:g}: {gains}"


def decide_sizes(
    measured: Measurements, given: Mapping[str, Any], *, horizon: int, pace: float, seconds: float | None
) -> dict[str, Decision]:
    """Trajectories and tasks of an iteration, and the step of the context that such trajectories allow.

    There are enough iterations within the time, and not more: a context that is read off a few episodes, or a mean over
    a few tasks, is mostly noise.

    Args:
        measured: by `probe`.
        given: settings that a file or a flag fixes, by dotted name.
        horizon: H of the tasks.
        pace: environment steps that a whole iteration takes in a second, its outer step included.
        seconds: time that is left for training; None where the budget is not a time.

    Raises:
        BudgetError: the time does not suffice for the smallest iteration.
    """
    decisions, settle = _collector(given)
    # Episodes grow as the policy learns to keep going.
    length = math.sqrt(measured.episode_length * horizon)
    episodes = pace / (length * (1 + given.get("adaptation.inner_steps", 1)))  # of the support, in a second
    affordable = float(_MOST_TRAJECTORIES * _USUAL_TASKS)
    known = f"{pace:,.0f} steps/s with the outer step, episodes of about {length:.0f} steps"
    if seconds is not None:
        known = f"{seconds / 60:.3g} min, {known}"
        affordable = episodes * seconds / _ITERATIONS
        smallest = FEWEST_TASKS * FEWEST_TRAJECTORIES / episodes
        if seconds < smallest:
            raise BudgetError(
                f"minutes: {max(seconds, 0.0) / 60:.2g} are left after the measurements, and one iteration takes about "
                f"{smallest / 60:.2g} ({known}): expected time for one, or better 100: "
                f"give --minutes {math.ceil(100 * smallest / 60)}"
            )
    trajectories = int(min(_MOST_TRAJECTORIES, max(FEWEST_TRAJECTORIES, math.sqrt(affordable))))
    settle("adaptation.trajectories_per_round", trajectories, f"{FEWEST_TRAJECTORIES} to 20 episodes a step ({known})")
    trajectories = given.get("adaptation.trajectories_per_round", trajectories)
    if given.get("policy.context_size") != 0:
        settle("adaptation.context_lr", *_context_step(measured, given, trajectories, length))
    tasks = int(min(_MOST_TASKS, max(FEWEST_TASKS, affordable / trajectories)))
    settle("meta_batch_size", tasks, f"for about {_ITERATIONS} iterations ({known})")
    return decisions


def _context_step(
    measured: Measurements, given: Mapping[str, Any], trajectories: int, length: float
) -> tuple[float, str]:
    """The step size of the context, for a support of so many trajectories of such a length."""
    if given.get("adaptation.normalize_gradient", True):
        return 1.0, "the first step is one unit long; the network learns what that unit means"
    steps = trajectories * length / (measured.trajectories * measured.episode_length)
    noise = measured.context_noise / math.sqrt(steps)
    size = min(30.0, max(3.0, _NOISE_STEP / noise)) if noise > 0.0 else 10.0
    return float(f"{size:.2g}"), (
        f"noise alone gives a gradient of {noise:.2g} in {trajectories} episodes: a step of it moves the context by "
        f"{noise * size:.2g}"
    )


def _collector(given: Mapping[str, Any]) -> tuple[dict[str, Decision], Callable[[str, Any, str], None]]:
    """Decisions by setting, and the function that adds one unless the setting is given."""
    decisions: dict[str, Decision] = {}

    def settle(setting: str, value: Any, reason: str) -> None:
        if setting not in given:
            decisions[setting] = Decision(setting=setting, value=value, reason=reason)

    return decisions, settle
