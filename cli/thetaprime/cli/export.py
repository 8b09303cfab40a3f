"""``thetaprime export``."""

from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource
from rich.console import Console

from thetaprime.cli._output import console_for, json_option, print_json
from thetaprime.cli._profiles import make_form, profile_options
from thetaprime.client import RobotDescription

_run_folder = click.Path(exists=True, file_okay=False, path_type=Path)
# Of an artifact: what has to be said, and nothing that a profile could need.
_REQUIRED: Final = ("pretrained", "oracle", "name", "description")
_WITH_A_PROFILE: Final = ("source", "profile", "robot", "output", "as_json")


@click.command()
@click.argument("source")
@profile_options
@click.option("--pretrained", type=_run_folder, help="Run of --method pretrained.")
@click.option("--oracle", type=_run_folder, help="Run of --method oracle.")
@click.option("--name", help="Name of the meta-policy, such as point-navigation.")
@click.option("--version", type=click.IntRange(min=1), default=1, show_default=True, help="Version, counted from 1.")
@click.option("--description", help="One line for people.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder of artifacts to write into, as <name>/<version>; with --profile, the file to write.  [default: zoo; "
    "with --profile NAME, NAME.onnx]",
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
@click.pass_context
def command(
    context: click.Context,
    /,
    source: str,
    profile: str | None,
    robot: RobotDescription | None,
    output: Path | None,
    as_json: bool,
    **artifact: Any,
) -> None:
    """Write the meta-policy of the run SOURCE as an artifact: θ, its comparisons, its ONNX form, its card.

    The artifact is what `thetaprime serve` serves and `thetaprime evaluate` measures. Its card holds the curves
    that are measured here. --pretrained, --oracle, --name and --description are needed.

    With --profile, write a policy in the form that an engine reads instead: SOURCE is then an ONNX file (θ′, as
    `thetaprime adapt` and `save` write it), the folder of an artifact, or a shipped meta-policy by name.
    """
    console = console_for(as_json)
    if profile is None:
        if robot is not None:
            raise click.UsageError("--robot describes the robot for --profile robot")
        facts = _write_artifact(context, console, source, output, **artifact)
    else:
        _refuse_others(context)
        facts = _write_form(console, source, profile, robot, output or Path(f"{profile}.onnx"))
    if as_json:
        print_json(facts)


def _write_form(
    console: Console, source: str, profile: str, robot: RobotDescription | None, output: Path
) -> dict[str, Any]:
    if not output.parent.is_dir():
        raise click.BadParameter(f"the folder {output.parent} does not exist", param_hint="--output")
    file = make_form(source, profile, robot)
    file.save(output)
    console.print(f"wrote {output} ({file.meta_policy} as {profile}, policy {file.policy_id[:12]})")
    return {
        "onnx": str(output),
        "profile": profile,
        "meta_policy": file.meta_policy,
        "policy_id": file.policy_id,
        "sha256": file.sha256,
    }


def _write_artifact(
    context: click.Context, console: Console, source: str, output: Path | None, **fields: Any
) -> dict[str, Any]:
    # Here, since the forms need none of it.
    from thetaprime.cli._progress import work_bar
    from thetaprime.cli.evaluate import evaluation_table
    from thetaprime.models import hold_freed_memory
    from thetaprime.training.export.export import ExportRequest, export_meta_policy, export_steps

    for parameter in context.command.params:
        if parameter.name in _REQUIRED and fields[parameter.name] is None:
            raise click.MissingParameter(ctx=context, param=parameter)
    if not Path(source).is_dir():
        raise click.BadParameter(f"{source}: expected the folder of a run (or --profile)", param_hint="SOURCE")
    hold_freed_memory()
    name, version = fields["name"], fields["version"]
    folder = (output or Path("zoo")) / name / str(version)
    request = ExportRequest(maml=Path(source), output=folder, **fields)
    with work_bar(console, f"measuring {name}@{version}", export_steps(request)) as advance:
        written, evaluation = export_meta_policy(request, on_step=advance)
    console.print(evaluation_table(evaluation))
    console.print(f"wrote {written.directory}")
    return {
        "artifact": str(written.directory),
        "meta_policy": written.label,
        "policy_id": written.policy_id,
        "files": written.manifest.files,
        "scores": evaluation.scores().tolist(),
        "negative_adaptation": evaluation.negative_adaptation().tolist(),
    }


def _refuse_others(context: click.Context) -> None:
    """Refuses options that say how to write an artifact where none is written."""
    for parameter in context.command.params:
        name = parameter.name or ""
        given = name in context.params and context.get_parameter_source(name) is not ParameterSource.DEFAULT
        if given and name not in _WITH_A_PROFILE:
            raise click.UsageError(f"{parameter.opts[0]} is for writing an artifact of a run, not for --profile")
