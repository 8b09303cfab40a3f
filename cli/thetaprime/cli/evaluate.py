"""``thetaprime evaluate``."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from thetaprime.cli._command import Command, option
from thetaprime.cli._completion import complete_meta_policy, meta_policy_names
from thetaprime.cli._files import FIGURE_FORMATS, NewFile, NewFolder, force_option, require_new_file
from thetaprime.cli._output import console_for, json_option, print_json
from thetaprime.cli._progress import work_progress
from thetaprime.cli._suggestions import suggesting

if TYPE_CHECKING:
    from rich.table import Table

    from thetaprime.training.evaluation.scores import Evaluation

GRADIENT_STEPS: Final = 4
"""`thetaprime.training.evaluation.evaluation.GRADIENT_STEPS`, without the import."""


@click.command(
    cls=Command,
    examples=(
        "thetaprime evaluate point-navigation --tasks 40 --seed 7",
        "thetaprime evaluate my-robot --zoo zoo --seed 1 --seed 2 --seed 3 --plot curves.pdf",
    ),
)
@click.argument("meta_policy", shell_complete=complete_meta_policy)
@option("--tasks", type=click.IntRange(min=2), default=40, show_default=True, help="Held-out tasks.")
@option(
    "--seed",
    "seeds",
    type=click.IntRange(min=0),
    default=[0],
    show_default=True,
    multiple=True,
    help="Seed of the tasks and episodes. Repeat it for more seeds; each draws its own --tasks tasks.",
)
@option(
    "--gradient-steps",
    type=click.IntRange(min=1),
    default=GRADIENT_STEPS,
    show_default=True,
    help="Gradient steps to take.",
)
@option(
    "--trajectories",
    type=click.IntRange(min=1),
    help="Trajectories for each gradient step and for each return.  [default: as in meta-training]",
)
@option(
    "--zoo",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of artifacts that holds META_POLICY.  [default: the shipped zoo]",
)
@option(
    "--output",
    section="Output",
    type=NewFolder(),
    help="Folder for evaluation.json and curves.png.  [default: runs/evaluation/<meta-policy>]",
)
@option(
    "--plot",
    section="Output",
    type=NewFile(FIGURE_FORMATS),
    help="File of the four-way curve, with 95 % intervals and each task's points: PNG, PDF or SVG.  "
    "[default: curves.png in the folder of --output]",
)
@force_option
@json_option
def command(
    meta_policy: str,
    tasks: int,
    seeds: tuple[int, ...],
    gradient_steps: int,
    trajectories: int | None,
    zoo: Path | None,
    output: Path | None,
    plot: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure how well META_POLICY adapts to held-out tasks.

    META_POLICY is a name (its newest version), name@version, or the folder of an artifact. It is compared with a
    pretrained policy that is fine-tuned, a random initialization, and an oracle that observes the task.
    """
    from thetaprime.models import load_meta_policy, resolve_meta_policy
    from thetaprime.training.evaluation.evaluation import evaluate, evaluation_steps
    from thetaprime.training.evaluation.figures.evaluation import curves_figure
    from thetaprime.training.evaluation.figures.style import save

    with suggesting(meta_policy, lambda: meta_policy_names(zoo)):
        artifact = load_meta_policy(resolve_meta_policy(meta_policy, zoo), zoo)
    folder = output or Path("runs") / "evaluation" / artifact.manifest.name
    numbers, figure = folder / "evaluation.json", plot or folder / "curves.png"
    for file in (numbers, figure):
        require_new_file(file, "--output", force=force)
    console = console_for(as_json)
    steps = evaluation_steps(artifact.manifest.adaptation, gradient_steps, len(seeds))
    with work_progress(console, f"evaluating {artifact.label}", steps) as advance:
        evaluation = evaluate(
            artifact,
            tasks=tasks,
            seeds=seeds,
            gradient_steps=gradient_steps,
            trajectories=trajectories,
            on_step=advance,
        )
    folder.mkdir(parents=True, exist_ok=True)
    result = evaluation.to_json()
    numbers.write_text(json.dumps(result, indent=2) + "\n")
    save(curves_figure(evaluation), figure)
    for table in (*evaluation_tables(evaluation), budgets_table(evaluation)):
        console.print(table)
    console.print(f"wrote {numbers} and {figure}", soft_wrap=True)
    if as_json:
        print_json({**result, "figure": str(figure)})


def evaluation_tables(evaluation: "Evaluation") -> "list[Table]":
    """Tabulates the returns and the scores by gradient step. Each table fits into 80 columns."""
    from rich.table import Table

    title = f"{evaluation.meta_policy}: {len(evaluation.tasks)} held-out tasks, {evaluation.trajectories} trajectories"
    oracle = f"{evaluation.oracle.mean():.2f} ± {evaluation.oracle.std():.2f}"
    returns = Table("step", *evaluation.returns, title=title, caption=f"mean return ± sd over tasks; oracle {oracle}")
    for step, row in enumerate(zip(*evaluation.returns.values(), strict=True)):
        returns.add_row(str(step), *(f"{each.mean():.2f} ± {each.std():.2f}" for each in row))
    low, high = evaluation.interval(evaluation.scores)
    columns = {
        "step": list(map(str, range(len(low)))),
        "S_k": [f"{score:.3f}" for score in evaluation.scores()],
        "95 % interval": _ranges(low, high),
    }
    if len(evaluation.seeds) > 1:
        by_seed = evaluation.scores_by_seed()
        columns["over seeds"] = _ranges(by_seed.min(0), by_seed.max(0))
    columns["R_k < R_0"] = ["–", *(f"{100 * share:.1f} %" for share in evaluation.negative_adaptation())]
    scores = Table(*columns, title="scores, and tasks that adaptation made worse")
    for row in zip(*columns.values(), strict=True):
        scores.add_row(*row)
    return [returns, scores]


def budgets_table(evaluation: "Evaluation") -> "Table":
    """Tabulates S_1, the score after one gradient step, by the number of trajectories of that step."""
    from rich.table import Table

    table = Table("trajectories", "S_1", "95 % interval", title="one gradient step on fewer or more trajectories")
    low, high = evaluation.interval(evaluation.scores_by_budget)
    for row in zip(evaluation.budgets, evaluation.scores_by_budget(), _ranges(low, high), strict=True):
        table.add_row(str(row[0]), f"{row[1]:.3f}", row[2])
    return table


def _ranges(low: Iterable[float], high: Iterable[float]) -> list[str]:
    return [f"{a:.3f}..{b:.3f}" for a, b in zip(low, high, strict=True)]
