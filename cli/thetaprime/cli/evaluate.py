"""``thetaprime evaluate``."""

import json
from pathlib import Path

import click
from rich.table import Table

from thetaprime.cli._files import FIGURE_FORMATS, NewFile
from thetaprime.cli._output import console_for, json_option, print_json
from thetaprime.cli._progress import work_bar
from thetaprime.models import hold_freed_memory, load_meta_policy, resolve_meta_policy
from thetaprime.training.evaluation.evaluation import GRADIENT_STEPS, evaluate, evaluation_steps
from thetaprime.training.evaluation.figures.evaluation import curves_figure
from thetaprime.training.evaluation.figures.style import save
from thetaprime.training.evaluation.scores import Evaluation


@click.command()
@click.argument("meta_policy")
@click.option("--tasks", type=click.IntRange(min=2), default=40, show_default=True, help="Held-out tasks.")
@click.option(
    "--seed",
    "seeds",
    type=click.IntRange(min=0),
    default=[0],
    show_default=True,
    multiple=True,
    help="Of the tasks and episodes; give it again for more seeds, each with so many tasks of its own.",
)
@click.option(
    "--gradient-steps", type=click.IntRange(min=1), default=GRADIENT_STEPS, show_default=True, help="Rounds to take."
)
@click.option(
    "--trajectories",
    type=click.IntRange(min=1),
    help="For each gradient step and each return.  [default: the meta-policy's own number]",
)
@click.option(
    "--zoo",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of artifacts to find META_POLICY in.  [default: the shipped zoo]",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for evaluation.json and curves.png.  [default: runs/evaluation/<meta-policy>]",
)
@click.option(
    "--plot",
    type=NewFile(FIGURE_FORMATS),
    help="Where to draw the four-way curve, with 95 % intervals and each task's points: PNG, PDF or SVG.  "
    "[default: curves.png in the folder of --output]",
)
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
    as_json: bool,
) -> None:
    """Measure how well META_POLICY adapts to tasks it has not seen.

    META_POLICY is a name (its newest version), name@version, or the folder of an artifact. It is compared with
    a pretrained policy that is fine-tuned, a random initialization, and an oracle that is told the task.
    """
    hold_freed_memory()
    artifact = load_meta_policy(resolve_meta_policy(meta_policy, zoo))
    console = console_for(as_json)
    steps = evaluation_steps(artifact.manifest.adaptation, gradient_steps, len(seeds))
    with work_bar(console, f"evaluating {artifact.label}", steps) as advance:
        evaluation = evaluate(
            artifact,
            tasks=tasks,
            seeds=seeds,
            gradient_steps=gradient_steps,
            trajectories=trajectories,
            on_step=advance,
        )
    folder = output or Path("runs") / "evaluation" / artifact.manifest.name
    folder.mkdir(parents=True, exist_ok=True)
    result = evaluation.to_json()
    (folder / "evaluation.json").write_text(json.dumps(result, indent=2) + "\n")
    figure = plot or folder / "curves.png"
    save(curves_figure(evaluation), figure)
    console.print(evaluation_table(evaluation))
    console.print(budgets_table(evaluation))
    console.print(f"wrote {folder / 'evaluation.json'} and {figure}")
    if as_json:
        print_json({**result, "figure": str(figure)})


def evaluation_table(evaluation: Evaluation) -> Table:
    """Returns, scores and negative adaptation by gradient step."""
    steps = range(len(evaluation.returns["maml"]))
    title = f"{evaluation.meta_policy}: {len(evaluation.tasks)} held-out tasks, {evaluation.trajectories} trajectories"
    table = Table(
        "gradient steps", *map(str, steps), title=title, caption="mean return ± sd over tasks; 95 % intervals"
    )
    for method, curve in evaluation.returns.items():
        table.add_row(method, *(f"{row.mean():.2f} ± {row.std():.2f}" for row in curve))
    table.add_row("oracle", f"{evaluation.oracle.mean():.2f} ± {evaluation.oracle.std():.2f}")
    low, high = evaluation.interval(evaluation.scores)
    table.add_row("S_k", *(f"{score:.3f}" for score in evaluation.scores()))
    table.add_row("  interval", *(f"{a:.3f}..{b:.3f}" for a, b in zip(low, high, strict=True)))
    if len(evaluation.seeds) > 1:
        by_seed = evaluation.scores_by_seed()
        table.add_row(
            "  over seeds", *(f"{a:.3f}..{b:.3f}" for a, b in zip(by_seed.min(0), by_seed.max(0), strict=True))
        )
    table.add_row("R_k < R_0", "–", *(f"{100 * share:.1f} %" for share in evaluation.negative_adaptation()))
    return table


def budgets_table(evaluation: Evaluation) -> Table:
    """S_1 by the number of trajectories that the one gradient step was taken on."""
    table = Table(
        "trajectories", *map(str, evaluation.budgets), title="one gradient step on fewer or more trajectories"
    )
    low, high = evaluation.interval(evaluation.scores_by_budget)
    table.add_row("S_1", *(f"{score:.3f}" for score in evaluation.scores_by_budget()))
    table.add_row("  interval", *(f"{a:.3f}..{b:.3f}" for a, b in zip(low, high, strict=True)))
    return table
