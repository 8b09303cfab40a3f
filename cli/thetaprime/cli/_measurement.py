"""The options of a model card's measurement, and what a command says of it."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from thetaprime.cli._command import option

if TYPE_CHECKING:
    from rich.console import Console

    from thetaprime.models import MetaPolicy
    from thetaprime.training.evaluation.lifetimes import LifetimeEvaluation
    from thetaprime.training.evaluation.scores import Evaluation

_option = functools.partial(option, section="Measurement of an artifact")


def measurement_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options ``--tasks``, ``--seed`` and ``--more-trajectories``."""
    decorators = (
        _option("--tasks", type=click.IntRange(min=2), default=40, show_default=True, help="Held-out tasks."),
        _option(
            "--seed",
            "seeds",
            type=click.IntRange(min=0),
            default=[7],
            show_default=True,
            multiple=True,
            help="Seed of the measurement. Repeat it for more seeds; each draws its own --tasks tasks.",
        ),
        _option(
            "--more-trajectories",
            type=click.IntRange(min=1),
            multiple=True,
            help="Measure with this number of trajectories for each gradient step too. May be repeated.",
        ),
    )
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


def exported_facts(console: "Console", written: "MetaPolicy", evaluation: "Evaluation") -> dict[str, Any]:
    """Shows an artifact's evaluation and its folder; returns the facts for ``--json``."""
    from thetaprime.cli.evaluate import evaluation_tables

    for table in evaluation_tables(evaluation):
        console.print(table)
    console.print(f"wrote {written.directory}", soft_wrap=True)
    return {
        "artifact": str(written.directory),
        "meta_policy": written.label,
        "policy_id": written.policy_id,
        "files": written.manifest.files,
        "scores": evaluation.scores().tolist() if evaluation.scored else None,
        "negative_adaptation": evaluation.negative_adaptation().tolist(),
    }


def exported_memory_facts(
    console: "Console", written: "MetaPolicy", evaluation: "LifetimeEvaluation"
) -> dict[str, Any]:
    """As `exported_facts`, of an artifact with a memory."""
    from thetaprime.cli._lifetimes import lifetimes_table

    console.print(lifetimes_table(evaluation))
    console.print(f"wrote {written.directory}", soft_wrap=True)
    return {
        "artifact": str(written.directory),
        "meta_policy": written.label,
        "policy_id": written.policy_id,
        "files": written.manifest.files,
        "returns_by_episode": evaluation.returns.mean(1).tolist(),
        "scores_by_episode": evaluation.scores().tolist() if evaluation.scored else None,
    }
