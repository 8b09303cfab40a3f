"""``thetaprime train``."""

import functools
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from thetaprime.cli._command import Command, option
from thetaprime.cli._completion import TASKS, complete_tasks
from thetaprime.cli._errors import INTERRUPTED, CommandError
from thetaprime.cli._files import NewFolder
from thetaprime.cli._options import options_from
from thetaprime.cli._output import console_for, json_option, print_json
from thetaprime.cli._suggestions import suggesting
from thetaprime.cli._training import interruptible, iterations_shown, show_probe, show_recipe
from thetaprime.training.config import TrainConfig, changed_config, load_config

if TYPE_CHECKING:
    from thetaprime.training.recipe.settings import Recipe
    from thetaprime.training.run import Progress as Iteration

SECTIONS: Final = {
    "Experiment": ("method", "seed"),
    "Budget": ("minutes", "environment_steps", "iterations"),
    "Outer loop": (
        *(
            "outer_loop",
            "meta_batch_size",
            "spread_tasks",
            "support_trajectories",
            "max_kl",
            "fisher_fraction",
            "outer_lr",
        ),
        *("outer_epochs", "clip_range", "inner_kl_penalty", "exploration_credit", "outer_discount", "outer_gae_lambda"),
        *("multi_step_loss", "learn_step_sizes", "step_size_lr"),
    ),
    "Inner loop": ("adaptation",),
    "Lifetimes and PPO of --method rl2": ("rl2",),
    "Network": ("policy",),
    "Machine": ("checkpoint_every", "checkpoint_minutes", "threads", "tracker"),
}
"""The fields of `TrainConfig`, by section of ``--help``."""

_run_option = functools.partial(option, section="Run folder")


@click.command(
    cls=Command,
    examples=(
        "thetaprime train point-navigation --seed 1 --output runs/maml",
        "thetaprime train point-navigation --seed 1 --output runs/maml --resume --iterations 800",
        "thetaprime train point-navigation --method oracle --output runs/oracle",
        "thetaprime train point-navigation --method rl2 --policy-memory-cell gru --minutes 10",
        "thetaprime train my_package.my_tasks:MyTasks --outer-loop promp --max-kl 0.02",
    ),
)
@click.argument("tasks", required=False, shell_complete=complete_tasks)
@_run_option(
    "--config",
    "config_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML file with any of the settings below; options override it.",
)
@_run_option(
    "--output",
    type=NewFolder(),
    help="Folder of the run: checkpoint, learning curves, logs.  [default: runs/<tasks>-<method>-<seed>]",
)
@_run_option(
    "--recipe",
    type=click.Choice(["auto", "paper"]),
    help="auto: measure the tasks for a minute or two, and settle every setting that no option and no file gives. "
    "paper: the defaults below, those of Finn et al. (2017).  [default: auto without --config]",
)
@_run_option("--resume", is_flag=True, help="Go on from the checkpoint in the run's folder, to the same bits.")
@_run_option(
    "--amend",
    is_flag=True,
    help="Go on from the checkpoint with other settings than the run began with. The run records both.",
)
@_run_option(
    "--warm-start",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where to begin, on the same tasks. Meta-training: the folder of an oracle's run, whose input becomes the "
    "context, or what the memory has to say (--method rl2, with --rl2-task-weight). An oracle: an artifact's folder, "
    "whose adapted contexts become the weights of the oracle's input.",
)
@options_from(TrainConfig, exclude=frozenset({"tasks"}), sections=SECTIONS)
@json_option
def command(
    tasks: str | None,
    config_file: Path | None,
    output: Path | None,
    recipe: str | None,
    resume: bool,
    amend: bool,
    warm_start: Path | None,
    as_json: bool,
    given: dict[str, Any],
) -> None:
    """Meta-train a policy over a distribution of TASKS.

    TASKS is point-navigation, half-cheetah-velocity, half-cheetah-direction, ant-velocity, ant-direction,
    half-cheetah-body, ant-leg, walker-body, or package.module:Class for your own task distribution. The inner loop is
    REINFORCE; --outer-loop chooses the outer loop, TRPO by default. --method rl2 trains a policy with a memory instead,
    which adapts while it acts. --method pretrained and --method oracle train the comparisons.

    Ctrl-C finishes the iteration and saves the run, which --resume continues.
    """
    given = given if tasks is None else {**given, "tasks": tasks}
    asked = load_config(config_file, given)
    directory = output or Path("runs") / f"{asked.tasks.replace(':', '.')}-{asked.method}-{asked.seed}"
    console = console_for(as_json)
    from thetaprime.training.checkpoint import load_checkpoint
    from thetaprime.training.run import check_new, train

    settled: Recipe | None = None
    config = asked
    if (resume or amend) and config_file is None and recipe is None:
        config = changed_config(load_checkpoint(directory).config, given)
    elif not (resume or amend) and (recipe == "auto" or (recipe is None and config_file is None)):
        check_new(directory)
        from thetaprime.training.recipe.settings import settle_recipe

        with suggesting(asked.tasks, lambda: TASKS):
            settled = settle_recipe(config_file, given, on_probe=lambda seconds: show_probe(console, seconds))
        show_recipe(console, settled)
        config = settled.config
    watch = f"; watch it with: tensorboard --logdir {directory}" if config.tracker == "tensorboard" else ""
    console.print(f"run folder {directory}{watch}", soft_wrap=True)

    with (
        suggesting(config.tasks, lambda: TASKS),
        iterations_shown(console) as show,
        interruptible() as interrupted,
    ):
        finished = False

        def on_iteration(iteration: "Iteration") -> None:
            nonlocal finished
            finished = iteration.spent >= 1.0
            show(iteration)

        if settled is not None:
            from thetaprime.training.recipe.attempts import train_recipe

            state = train_recipe(
                settled,
                directory,
                on_iteration=on_iteration,
                on_message=lambda message: console.print(message, soft_wrap=True),
                stop=interrupted.is_set,
                warm_start=warm_start,
            )
        else:
            state = train(
                config,
                directory,
                resume=resume or amend,
                amend=amend,
                warm_start=warm_start,
                on_iteration=on_iteration,
                stop=interrupted.is_set,
            )
    facts = {
        "run": str(directory),
        "tasks": config.tasks,
        "method": config.method,
        "seed": config.seed,
        "iterations": state.iteration,
        "environment_steps": state.environment_steps,
        "wall_seconds": state.wall_seconds,
    }
    if interrupted.is_set() and not finished:
        again = f"go on with the same command and --resume (--output {shlex.quote(str(directory))})"
        message = f"thetaprime train: stopped and saved after iteration {state.iteration}: {again}"
        raise CommandError(message, "CANCELLED", facts, INTERRUPTED)
    console.print(f"{state.iteration} iterations, {state.environment_steps:,} environment steps in {directory}")
    if as_json:
        print_json(facts)
