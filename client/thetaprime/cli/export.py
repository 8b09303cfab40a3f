"""``thetaprime export``."""

from pathlib import Path

import click

from thetaprime.cli._output import console_for, json_option, print_json
from thetaprime.cli._progress import work_bar
from thetaprime.cli.evaluate import evaluation_table
from thetaprime.models import hold_freed_memory
from thetaprime.training.export import ExportRequest, export, export_steps

_run_folder = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("run", type=_run_folder)
@click.option("--pretrained", type=_run_folder, required=True, help="Run of --method pretrained.")
@click.option("--oracle", type=_run_folder, required=True, help="Run of --method oracle.")
@click.option("--name", required=True, help="Name of the meta-policy, such as point-navigation.")
@click.option("--version", type=click.IntRange(min=1), default=1, show_default=True, help="Version, counted from 1.")
@click.option("--description", required=True, help="One line for people.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of artifacts to write into, as <name>/<version>.  [default: zoo]",
)
@click.option(
    "--tasks", type=click.IntRange(min=2), default=40, show_default=True, help="Held-out tasks to measure on."
)
@click.option(
    "--seed",
    "seeds",
    type=click.IntRange(min=0),
    default=[7],
    show_default=True,
    multiple=True,
    help="Of the measurement; give it again for more seeds, each with so many tasks of its own.",
)
@click.option(
    "--more-trajectories",
    type=click.IntRange(min=1),
    multiple=True,
    help="Measure with this number of trajectories for each gradient step as well; may be given again.",
)
@click.option(
    "--adapted-std-factor",
    type=click.FloatRange(min=0.0, min_open=True, max=1.0),
    help="What the first gradient step multiplies the policy's noise by. θ explores; θ′ need not, and returns more "
    "without.  [default: as in training]",
)
@click.option(
    "--exploration-std-factor",
    type=click.FloatRange(min=0.0, min_open=True),
    default=1.0,
    show_default=True,
    help="What θ's noise is multiplied by. More of it tells more surely which way to go; the factor above counts "
    "from there.",
)
@json_option
def command(
    run: Path,
    pretrained: Path,
    oracle: Path,
    name: str,
    version: int,
    description: str,
    output: Path | None,
    tasks: int,
    seeds: tuple[int, ...],
    more_trajectories: tuple[int, ...],
    adapted_std_factor: float | None,
    exploration_std_factor: float,
    as_json: bool,
) -> None:
    """Write the meta-policy of RUN as an artifact: θ, its comparisons, its ONNX form, its card.

    The artifact is what `thetaprime serve` serves and `thetaprime evaluate` measures. Its card holds the curves
    that are measured here.
    """
    hold_freed_memory()
    request = ExportRequest(
        maml=run,
        pretrained=pretrained,
        oracle=oracle,
        output=(output or Path("zoo")) / name / str(version),
        name=name,
        version=version,
        description=description,
        tasks=tasks,
        seeds=seeds,
        more_trajectories=more_trajectories,
        adapted_std_factor=adapted_std_factor,
        exploration_std_factor=exploration_std_factor,
    )
    console = console_for(as_json)
    with work_bar(console, f"measuring {name}@{version}", export_steps(request)) as advance:
        written, evaluation = export(request, on_step=advance)
    console.print(evaluation_table(evaluation))
    console.print(f"wrote {written.directory}")
    if as_json:
        print_json(
            {
                "artifact": str(written.directory),
                "meta_policy": written.label,
                "policy_id": written.policy_id,
                "files": written.manifest.files,
                "scores": evaluation.scores().tolist(),
                "negative_adaptation": evaluation.negative_adaptation().tolist(),
            }
        )
