"""``thetaprime train``."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from thetaprime.cli._errors import INTERRUPTED
from thetaprime.cli._options import options_from
from thetaprime.cli._output import console_for, json_option, print_json
from thetaprime.models import hold_freed_memory
from thetaprime.training.config import TrainConfig, load_config
from thetaprime.training.run import Progress as Iteration
from thetaprime.training.run import train


@click.command()
@click.argument("tasks", required=False)
@click.option(
    "--config",
    "config_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML file with any of the fields below; flags win over it.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the run: checkpoint and TensorBoard logs.  [default: runs/<tasks>-<method>-<seed>]",
)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in the run's folder, to the same bits.")
@click.option(
    "--amend",
    is_flag=True,
    help="Go on from the checkpoint with other settings than the run began with; it keeps a record of both.",
)
@click.option(
    "--warm-start",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of an oracle's run on the same tasks to begin from: what it was told becomes the context.",
)
@options_from(TrainConfig, exclude=frozenset({"tasks"}))
@json_option
def command(
    tasks: str | None,
    config_file: Path | None,
    output: Path | None,
    resume: bool,
    amend: bool,
    warm_start: Path | None,
    as_json: bool,
    given: dict[str, Any],
) -> None:
    """Meta-train a policy over a distribution of TASKS.

    TASKS is a name of ours (point-navigation, half-cheetah-velocity, half-cheetah-direction, ant-velocity,
    ant-direction), or package.module:Class for your own task distribution. REINFORCE inside; outside TRPO, or what
    --outer-loop says. --method pretrained and --method oracle train the comparisons.
    """
    hold_freed_memory()
    overrides = given if tasks is None else {**given, "tasks": tasks}
    config = load_config(config_file, overrides)
    directory = output or Path("runs") / f"{config.tasks.replace(':', '.')}-{config.method}-{config.seed}"
    console = console_for(as_json)
    console.print(f"run folder {directory}; watch it with: tensorboard --logdir {directory}")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        row = bar.add_task("starting", total=config.iterations)

        def show(iteration: Iteration) -> None:
            text = f"return {iteration.pre_return:.2f} -> {iteration.post_return:.2f}"
            bar.update(row, completed=iteration.iteration, description=text)
            # A bar says nothing in a file: there, a line now and then.
            if not console.is_terminal and iteration.iteration % config.checkpoint_every == 0:
                console.print(f"iteration {iteration.iteration} of {config.iterations}: {text}")

        with _interruptible() as interrupted:
            state = train(
                config,
                directory,
                resume=resume or amend,
                amend=amend,
                warm_start=warm_start,
                on_iteration=show,
                stop=interrupted.is_set,
            )
    if state.iteration < config.iterations:
        console.print(f"stopped and saved after iteration {state.iteration}: go on with the same command and --resume")
        click.get_current_context().exit(INTERRUPTED)
    console.print(f"{state.iteration} iterations, {state.environment_steps:,} environment steps in {directory}")
    if as_json:
        print_json(
            {
                "run": str(directory),
                "tasks": config.tasks,
                "method": config.method,
                "seed": config.seed,
                "iterations": state.iteration,
                "environment_steps": state.environment_steps,
                "wall_seconds": state.wall_seconds,
            }
        )


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Ctrl-C, or being told to end, sets the event, so that the iteration can end and be saved."""
    interrupted = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: FrameType | None) -> None:
        # Past the console and its locks, which the signal may have come in the middle of.
        os.write(2, b"stopping after this iteration; again to stop at once, back to the last checkpoint\n")
        interrupted.set()
        restore()

    for number in before:
        signal.signal(number, ask)
    try:
        yield interrupted
    finally:
        restore()
