"""``thetaprime export``."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from thetaprime.cli._command import Command, option
from thetaprime.cli._completion import MANIFEST, complete_meta_policy
from thetaprime.cli._files import force_option, require_new_file
from thetaprime.cli._measurement import exported_facts, exported_memory_facts, measurement_options
from thetaprime.cli._output import console_for, json_option, print_json
from thetaprime.cli._profiles import make_form, profile_options

if TYPE_CHECKING:
    from rich.console import Console

    from thetaprime.client import RobotDescription

# Options that an artifact requires, and a form does not take.
_REQUIRED: Final = ("name", "description")
_WITH_A_PROFILE: Final = ("source", "profile", "robot", "output", "force", "as_json")

# With fewer, no p-value is below 0.05, and no gain is predicted.
_FEWEST_TASKS: Final = 20


def _enough_tasks(context: click.Context, parameter: click.Parameter, value: int) -> int:
    if 0 < value < _FEWEST_TASKS:
        problem = f"{value} is too few to calibrate a verdict; expected 0 for none, or at least {_FEWEST_TASKS}."
        raise click.BadParameter(problem)
    return value


_artifact_option = functools.partial(option, section="Artifact of a run")


@click.command(
    cls=Command,
    examples=(
        "thetaprime export runs/maml --pretrained runs/pretrained --oracle runs/oracle \\\n"
        "    --name my-robot --description 'A robot that reaches.' --output zoo",
        "thetaprime export runs/maml --name my-robot --description 'A robot that reaches.'",
        "thetaprime export policy.onnx --profile unity-mlagents --output walker.onnx",
        "thetaprime export point-navigation --profile epsilon",
    ),
)
@click.argument("source", shell_complete=complete_meta_policy)
@_artifact_option(
    "--pretrained",
    help="Policy to compare with: the folder of a run of --method pretrained, or an artifact that has one. A random "
    "initialization is compared, too.  [default: none; thetaprime compare adds it later]",
)
@_artifact_option(
    "--oracle", help="Oracle to compare with: the folder of a run of --method oracle, or an artifact.  [default: none]"
)
@_artifact_option("--name", help="Name of the meta-policy, such as point-navigation.")
@_artifact_option(
    "--version", type=click.IntRange(min=1), default=1, show_default=True, help="Version, counted from 1."
)
@_artifact_option("--description", help="One line for people.")
@_artifact_option(
    "--notes",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Markdown file to add to the model card.",
)
@_artifact_option(
    "--adapted-std-factor",
    type=click.FloatRange(min=0.0, min_open=True, max=1.0),
    help="Factor on the policy's noise at the first gradient step. θ needs noise to explore; θ′ returns more without.  "
    "[default: as in training]",
)
@_artifact_option(
    "--later-step-factor",
    type=click.FloatRange(min=0.0, min_open=True),
    default=1.0,
    show_default=True,
    help="Factor on the step sizes after the first step. Less noise makes the gradient larger by its inverse: give the "
    "factor of --adapted-std-factor where every parameter adapts and no target return sets the length of a step.",
)
@_artifact_option(
    "--exploration-std-factor",
    type=click.FloatRange(min=0.0, min_open=True),
    default=1.0,
    show_default=True,
    help="Factor on θ's noise. More noise gives a surer direction of the gradient. --adapted-std-factor multiplies "
    "the result.",
)
@_artifact_option(
    "--calibration-tasks",
    type=click.IntRange(min=0),
    callback=_enough_tasks,
    default=216,
    show_default=True,
    help="Training tasks to simulate, at least 20, for verdicts on whether a session's task is like them, and on what "
    "its first step will gain. The smallest p-value is 1 / (tasks + 1). 0 for an artifact whose verdicts say nothing "
    "about the task.",
)
@measurement_options
@profile_options
@option(
    "--output",
    section="Output",
    type=click.Path(path_type=Path),
    help="Folder of artifacts to write into, as <name>/<version>; with --profile, the file to write.  [default: zoo; "
    "with --profile NAME, NAME.onnx]",
)
@force_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    source: str,
    profile: str | None,
    robot: "RobotDescription | None",
    output: Path | None,
    force: bool,
    as_json: bool,
    **artifact: Any,
) -> None:
    """Write the meta-policy of the run SOURCE as an artifact: θ, its ONNX form, its model card, its comparisons.

    `thetaprime serve` serves an artifact, and `thetaprime evaluate` measures it. The command measures the curves on
    the model card. It requires --name and --description; --pretrained and --oracle add policies to compare with. A run
    of --method rl2 becomes an artifact with a memory, which is measured by episode.

    With --profile, write a policy in the form that an engine reads. SOURCE is then an ONNX file (θ′, as `thetaprime
    adapt` and `save` write it), the folder of an artifact, or a shipped meta-policy by name.
    """
    console = console_for(as_json)
    if profile is None:
        if robot is not None:
            raise click.UsageError("--robot describes the robot for --profile robot")
        facts = _write_artifact(context, console, source, output or Path("zoo"), force=force, **artifact)
    else:
        _refuse_others(context)
        facts = _write_form(console, source, profile, robot, output or Path(f"{profile}.onnx"), force=force)
    if as_json:
        print_json(facts)


def _write_form(
    console: "Console", source: str, profile: str, robot: "RobotDescription | None", output: Path, *, force: bool
) -> dict[str, Any]:
    require_new_file(output, "--output", force=force, parents=False)
    file = make_form(source, profile, robot)
    file.save(output)
    form = f"{file.meta_policy} as {profile}, policy {file.policy_id[:12]}"
    console.print(f"wrote {output} ({form})", soft_wrap=True)
    return {
        "onnx": str(output),
        "profile": profile,
        "meta_policy": file.meta_policy,
        "policy_id": file.policy_id,
        "sha256": file.sha256,
    }


def _write_artifact(
    context: click.Context, console: "Console", source: str, zoo: Path, *, force: bool, **fields: Any
) -> dict[str, Any]:
    for parameter in context.command.params:
        if parameter.name in _REQUIRED and fields[parameter.name] is None:
            raise click.MissingParameter(ctx=context, param=parameter)
    if not Path(source).is_dir():
        raise click.BadParameter(f"{source}: expected the folder of a run (or --profile)", param_hint="SOURCE")
    folder = zoo / fields["name"] / str(fields["version"])
    require_new_file(folder / MANIFEST, "--output", force=force)
    # Imported here: the forms need neither torch nor a simulator.
    from thetaprime.cli._progress import work_progress
    from thetaprime.training.checkpoint import load_checkpoint
    from thetaprime.training.export.export import export_meta_policy, export_work
    from thetaprime.training.export.memory import export_memory, memory_work
    from thetaprime.training.export.request import ExportRequest

    notes: Path | None = fields.pop("notes")
    text = notes.read_text() if notes else ""
    request = ExportRequest(maml=Path(source), output=folder, notes=text, **fields)
    label = f"{request.name}@{request.version}"
    if load_checkpoint(request.maml).config.method == "rl2":
        with work_progress(console, f"measuring {label}", memory_work(request), count=False) as advance:
            remembering, lifetimes = export_memory(request, on_trajectories=advance)
        return exported_memory_facts(console, remembering, lifetimes)
    with work_progress(console, f"measuring {label}", export_work(request), count=False) as advance:
        written, evaluation = export_meta_policy(request, on_trajectories=advance)
    return exported_facts(console, written, evaluation)


def _refuse_others(context: click.Context) -> None:
    """Refuses the options of an artifact where a form is written."""
    for parameter in context.command.params:
        name = parameter.name or ""
        given = name in context.params and context.get_parameter_source(name) is not ParameterSource.DEFAULT
        if given and name not in _WITH_A_PROFILE:
            raise click.UsageError(f"{parameter.opts[0]} is for writing an artifact of a run, not for --profile")
