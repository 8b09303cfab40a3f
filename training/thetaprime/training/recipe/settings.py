"""Recipe "auto": probes a task distribution and settles the configuration of a run."""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from thetaprime.models import Decision
from thetaprime.training.algorithms import ALGORITHMS
from thetaprime.training.budget import Spent
from thetaprime.training.config import TrainConfig, load_config
from thetaprime.training.recipe.decide import (
    DEFAULT_MINUTES,
    FEWEST_TASKS,
    FEWEST_TRAJECTORIES,
    PROBE_NETWORK,
    decide,
    decide_memory,
    decide_sizes,
)
from thetaprime.training.recipe.probe import Measurements, probe
from thetaprime.training.resources import available_cores, task_threads
from thetaprime.training.tasks.distributions import resolve_tasks
from thetaprime.training.tasks.networks import make_policy
from thetaprime.training.tasks.protocol import TaskDistribution
from thetaprime.training.tasks.spread import can_spread

CONFIG_NAME: Final = "config.toml"
_PROBE_SHARE: Final = 0.05
_SHORTEST, _LONGEST = 2.0, 90.0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A configuration with the reasons for its settings.

    Attributes:
        config: of the run.
        decisions: the settings that were measured or derived, in the order of the rules.
        measured: the probe's measurements.
        spent: what the measurements took of the run's budget.
    """

    config: TrainConfig
    decisions: tuple[Decision, ...]
    measured: Measurements
    spent: Spent


def settle_recipe(
    path: Path | None, given: Mapping[str, Any], *, on_probe: Callable[[float], None] = lambda seconds: None
) -> Recipe:
    """Probes the tasks and settles all that neither a file nor a flag gives.

    Args:
        path: a TOML file as for `load_config`; None for none.
        given: values by dotted field name; they and the file's win over the recipe.
        on_probe: called before the probe, with its time in seconds.

    Raises:
        ValueError: a field is invalid; or the tasks are unknown or teach nothing, or the time is too short.
    """
    fixed = load_config(path, dict(given))
    fields = _given_fields(fixed)
    unlimited = fixed.minutes is None and fixed.iterations is None and fixed.environment_steps is None
    minutes = DEFAULT_MINUTES if unlimited else fixed.minutes
    seconds = None if minutes is None else 60.0 * minutes
    allowed = min(_LONGEST, max(_SHORTEST, _PROBE_SHARE * (60.0 * DEFAULT_MINUTES if seconds is None else seconds)))
    distribution = resolve_tasks(fixed.tasks)
    on_probe(allowed)
    with task_threads(1):
        measured = probe(distribution, PROBE_NETWORK, seconds=allowed, seed=fixed.seed)
    horizon, cores = distribution.environment.horizon, available_cores()
    rules = decide_memory if fixed.method == "rl2" else decide
    decisions = rules(measured, fields, horizon=horizon, cores=cores, spreads=can_spread(distribution))

    def configured() -> TrainConfig:
        return load_config(path, {**{name: each.value for name, each in decisions.items()}, **given})

    spent = Spent(0, measured.environment_steps, measured.seconds)
    if fixed.method != "rl2":
        trial = _try_iteration(configured(), distribution)
        left = None if seconds is None else seconds - measured.seconds - trial.seconds
        pace = trial.environment_steps / trial.seconds
        decisions |= decide_sizes(measured, fields, horizon=horizon, pace=pace, seconds=left)
        spent = Spent(0, spent.environment_steps + trial.environment_steps, spent.seconds + trial.seconds)
    if unlimited:
        decisions["minutes"] = Decision(setting="minutes", value=DEFAULT_MINUTES, reason="no budget was given")
    return Recipe(configured(), tuple(decisions.values()), measured, spent)


def _try_iteration(config: TrainConfig, distribution: TaskDistribution) -> Spent:
    """Runs a small iteration to see how long it takes. The first in a process is slower: the second one counts."""
    small = config.model_copy(
        update={
            "meta_batch_size": FEWEST_TASKS,
            "adaptation": config.adaptation.model_copy(update={"trajectories_per_round": FEWEST_TRAJECTORIES}),
        }
    )
    policy = make_policy(distribution.environment, small.policy)
    theta, rng = policy.init(small.seed), np.random.default_rng((small.seed, 2))
    algorithm = ALGORITHMS[small.outer_loop](policy, small)
    steps, seconds = 0, 0.0
    with task_threads(small.threads) as map_tasks:
        for _ in range(2):
            started = time.perf_counter()
            found = algorithm.iterate(distribution, theta, None, rng, map_tasks)
            seconds = time.perf_counter() - started
            steps = found.environment_steps
    return Spent(0, steps, seconds)


def _given_fields(config: TrainConfig) -> dict[str, Any]:
    """The fields that were set, by dotted name."""
    found: dict[str, Any] = {}

    def add(model: Any, prefix: str) -> None:
        for name in model.model_fields_set:
            value = getattr(model, name)
            if hasattr(value, "model_fields_set"):
                add(value, f"{prefix}{name}.")
            else:
                found[prefix + name] = value

    add(config, "")
    return found


def write_config(config: TrainConfig, decisions: tuple[Decision, ...], directory: Path) -> Path:
    """Writes the whole configuration of a run, which ``thetaprime train --config`` repeats, with its reasons.

    Returns:
        The file, ``config.toml`` in the run's folder.
    """
    reasons = {each.setting: each.reason for each in decisions}
    head, tables = [], []
    for name, value in config.model_dump(mode="json").items():
        if isinstance(value, dict):
            tables += _table(name, value, reasons)
        else:
            head += _lines(name, value, reasons.get(name))
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / CONFIG_NAME
    file.write_text("\n".join([*head, *tables]) + "\n")
    return file


def _table(name: str, values: Mapping[str, Any], reasons: Mapping[str, str]) -> list[str]:
    """A table, then the tables in it."""
    lines, inner = ["", f"[{name}]"], list[str]()
    for field, value in values.items():
        if isinstance(value, dict):
            inner += _table(f"{name}.{field}", value, reasons)
        else:
            lines += _lines(field, value, reasons.get(f"{name}.{field}"))
    return lines + inner


def _lines(name: str, value: Any, reason: str | None) -> list[str]:
    if value is None or value == []:  # TOML has no null, and the defaults are these
        return []
    comment = [f"# {reason}"] if reason else []
    return [*comment, f"{name} = {_toml(value)}"]


def _toml(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "inf" if value > 0 else "-inf"
    return json.dumps(value, ensure_ascii=False)
