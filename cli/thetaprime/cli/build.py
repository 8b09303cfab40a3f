"""``thetaprime build``."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from thetaprime.cli._command import Command, option
from thetaprime.cli._completion import MANIFEST, TASKS, complete_tasks
from thetaprime.cli._errors import INTERRUPTED, CommandError
from thetaprime.cli._files import NewFolder, force_option, require_new_file
from thetaprime.cli._measurement import exported_facts
from thetaprime.cli._output import console_for, json_option, print_json
from thetaprime.cli._progress import duration_text, work_progress
from thetaprime.cli._suggestions import suggesting
from thetaprime.cli._training import interruptible, iterations_shown, show_probe, show_recipe

if TYPE_CHECKING:
    from rich.console import Console

    from thetaprime.training.building.build import Build

_AGAIN: Final = "the same command goes on; finished stages are skipped"


@click.command(
    cls=Command,
    examples=(
        "thetaprime build my_tasks:MyTasks --minutes 60 --name my-robot",
        "thetaprime build my_tasks:MyTasks --minutes 20 --name my-robot --no-comparisons",
        "thetaprime build point-navigation --minutes 10 --name points --seed 1 --runs runs/points-1",
    ),
)
@click.argument("tasks", shell_complete=complete_tasks)
@option("--name", required=True, help="Name of the meta-policy, such as my-robot.", section="Artifact")
@option(
    "--version",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Version, counted from 1.",
    section="Artifact",
)
@option("--description", help="One line for people.  [default: the name of the tasks]", section="Artifact")
@option(
    "--output",
    type=NewFolder(),
    default=Path("zoo"),
    show_default=True,
    help="Folder of artifacts to write into, as <name>/<version>.",
    section="Artifact",
)
@option(
    "--minutes",
    type=click.FloatRange(min=0.0, min_open=True),
    default=60.0,
    show_default=True,
    help="Time of all stages together. Meta-training gets 7 parts, each comparison 5, evaluation and export 3; time "
    "that a stage leaves goes to the next ones. The evaluation has fewer tasks where time is short.",
    section="Training",
)
@option(
    "--comparisons/--no-comparisons",
    default=True,
    show_default=True,
    help="Also train a pretrained policy and an oracle, on as many environment steps, and score the meta-policy "
    "between them. Without, meta-training gets their time; thetaprime compare adds them later.",
    section="Training",
)
@option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the runs.", section="Training"
)
@option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML file of settings, as thetaprime train takes it.",
    section="Training",
)
@option(
    "--recipe",
    type=click.Choice(["auto", "paper"]),
    help="auto: measure the tasks, and settle what the file leaves open. paper: the defaults of thetaprime train.  "
    "[default: auto without --config]",
    section="Training",
)
@option(
    "--runs",
    type=NewFolder(),
    help="Folder of the runs, and of the record of finished stages.  [default: runs/<name>]",
    section="Run folder",
)
@force_option
@json_option
def command(
    tasks: str,
    name: str,
    description: str | None,
    output: Path,
    runs: Path | None,
    recipe: str | None,
    force: bool,
    as_json: bool,
    **fields: Any,
) -> None:
    """Build a meta-policy to serve from a class of TASKS, in one command.

    TASKS is package.module:Class for your own task distribution (thetaprime new writes one), or a shipped name. The
    stages: the contract test of the class; meta-training, with the settings that are measured on your tasks; a
    pretrained policy and an oracle to compare with; evaluation and export, with the model card.

    The command can be repeated: a finished stage is skipped, and an interrupted training goes on. Ctrl-C finishes the
    iteration and saves the run.
    """
    folder = output / name / str(fields["version"])
    console = console_for(as_json)
    # Imported here: --help needs neither torch nor a simulator.
    from thetaprime.training.building.build import Build, BuildRequest

    request = BuildRequest(
        tasks=tasks,
        name=name,
        description=description or f"Adapts to the tasks of {tasks}.",
        output=output,
        runs=runs or Path("runs") / name,
        recipe=recipe == "auto" or (recipe is None and fields["config"] is None),
        **fields,
    )
    with suggesting(tasks, lambda: TASKS):
        build = Build(request)
    if not build.began_to_export:
        require_new_file(folder / MANIFEST, "--output", force=force)
    if build.changed:
        console.print(
            f"the module of {tasks} has changed since the build in {request.runs} began: finished stages are kept; "
            "choose another folder with --runs to train again",
            soft_wrap=True,
        )
    facts: dict[str, Any] = {"artifact": str(folder), "meta_policy": f"{name}@{request.version}"}
    done = []
    for number, stage in enumerate(build.stages, 1):
        title = f"stage {number} of {len(build.stages)}, {stage}"
        skipped = build.finished(stage)
        if skipped:
            console.print(f"{title}: finished before, in {duration_text(build.taken(stage))}")
        else:
            seconds = build.seconds(stage)
            console.print(f"{title}: {f'up to {duration_text(seconds)}' if seconds else 'a moment'}")
            try:
                facts |= _take(console, build, stage)
            except (Exception, KeyboardInterrupt) as error:
                error.add_note(f"in the stage {stage}")
                if number > 1:
                    error.add_note(_AGAIN)
                raise
        done.append({"stage": stage, "seconds": build.taken(stage), "skipped": skipped})
    env = tasks if ":" in tasks else build.environment_id
    serve = shlex.join(["thetaprime", "serve", "--zoo", str(output), "--store", "state"])
    adapt = shlex.join(["thetaprime", "adapt", name, "--env", env, "--output", f"{name}.onnx"])
    console.print(
        f"{folder} is ready; serve it, and adapt it in another terminal:\n  {serve}\n  {adapt}", soft_wrap=True
    )
    if as_json:
        print_json({**facts, "stages": done, "serve": serve, "adapt": adapt})


def _take(console: "Console", build: "Build", stage: str) -> dict[str, Any]:
    """Takes one stage; returns facts for ``--json``."""
    from thetaprime.training.building.build import Watcher
    from thetaprime.training.building.plan import ARTIFACT, CONTRACT, META_TRAINING

    if stage == CONTRACT:
        build.check()
        return {}
    if stage == ARTIFACT:
        planned = build.plan_export()
        sizes = f"{planned.request.tasks} tasks to evaluate on, {planned.request.calibration_tasks} to calibrate with"
        console.print(f"{stage}: {sizes}, about {duration_text(planned.seconds)}")
        with work_progress(console, stage, planned.trajectories, count=False) as advance:
            written, evaluation = build.export(planned, on_trajectories=advance)
        return exported_facts(console, written, evaluation)
    with iterations_shown(console, stage) as show, interruptible() as interrupted:
        watcher = Watcher(
            on_probe=lambda seconds: show_probe(console, seconds),
            on_recipe=lambda recipe: show_recipe(console, recipe),
            on_iteration=show,
            on_message=lambda message: console.print(message, soft_wrap=True),
            stop=interrupted.is_set,
        )
        finished = build.train(stage, watcher)
    if not finished:
        message = f"thetaprime build: stopped and saved in the stage {stage}: {_AGAIN}"
        raise CommandError(message, "CANCELLED", {"stage": stage, "run": str(build.run(stage))}, INTERRUPTED)
    steps, aim = build.steps(stage), build.steps(META_TRAINING)
    fewer = f" of {aim:,}: its time ended first; more minutes compare fairly" if steps < aim else ""
    console.print(f"{stage}: {steps:,} environment steps{fewer}", soft_wrap=True)
    return {}
