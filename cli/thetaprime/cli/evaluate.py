"""``thetaprime evaluate``."""

import contextlib
import json
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import click

from thetaprime.cli._command import Command, option
from thetaprime.cli._completion import complete_meta_policy, meta_policy_names
from thetaprime.cli._errors import INTERRUPTED, CommandError
from thetaprime.cli._files import FIGURE_FORMATS, NewFile, NewFolder, force_option, require_new_file
from thetaprime.cli._lifetimes import lifetimes_table
from thetaprime.cli._output import console_for, json_option, print_json
from thetaprime.cli._progress import work_progress
from thetaprime.cli._suggestions import suggesting

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from thetaprime.models import MetaPolicy
    from thetaprime.training.evaluation.evaluation import EvaluationPlan
    from thetaprime.training.evaluation.lifetimes import LifetimeEvaluation, LifetimePlan
    from thetaprime.training.evaluation.scores import Evaluation

EPISODES: Final = 10
"""`thetaprime.training.evaluation.lifetimes.LifetimePlan.episodes`, without the import."""
GRADIENT_STEPS: Final = 4
"""`thetaprime.training.evaluation.evaluation.GRADIENT_STEPS`, without the import."""
METHODS: Final = ("maml", "pretrained", "random", "oracle")
"""`thetaprime.training.evaluation.evaluation.METHODS`, without the import."""
_NAMES: Final = {"maml": "meta-policy", "pretrained": "pretrained", "random": "random", "oracle": "oracle"}


class _Methods(click.ParamType[tuple[str, ...]]):
    """Methods to measure, separated by commas."""

    name = "methods"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """The form of the value in ``--help``."""
        return "METHOD[,METHOD...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """The methods in their usual order, each once."""
        if isinstance(value, tuple):
            return value
        given = [each.strip() for each in value.split(",")]
        for each in given:
            if each not in METHODS:
                self.fail(f"{each!r}; expected some of {', '.join(METHODS)}, separated by commas", param, ctx)
        return tuple(method for method in METHODS if method in given)


@click.command(
    cls=Command,
    examples=(
        "thetaprime evaluate point-navigation --tasks 40 --seed 7",
        "thetaprime evaluate ant-direction --tasks 6 --methods maml,oracle",
        "thetaprime evaluate zoo/my-robot-rl2/1 --episodes 60 --beside my-robot",
        "thetaprime evaluate my-robot --zoo zoo --seed 1 --seed 2 --seed 3 --plot curves.pdf",
    ),
)
@click.argument("meta_policy", shell_complete=complete_meta_policy)
@option("--tasks", type=click.IntRange(min=2), default=40, show_default=True, help="Held-out tasks.")
@option(
    "--methods",
    type=_Methods(),
    help=f"Methods to measure, of {', '.join(METHODS)}: the meta-policy and its comparisons. The score S_k needs maml, "
    "pretrained and oracle.  [default: all that the artifact has]",
)
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
    "--episodes",
    type=click.IntRange(min=1),
    default=EPISODES,
    show_default=True,
    help="Of a policy with a memory: episodes of a lifetime on each task.",
)
@option(
    "--beside",
    shell_complete=complete_meta_policy,
    help="Of a policy with a memory: a meta-policy for the same tasks that adapts by gradient, to draw in the same "
    "picture by episode of experience.",
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
    methods: tuple[str, ...] | None,
    seeds: tuple[int, ...],
    gradient_steps: int,
    trajectories: int | None,
    episodes: int,
    beside: str | None,
    zoo: Path | None,
    output: Path | None,
    plot: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure how well META_POLICY adapts to held-out tasks.

    META_POLICY is a name (its newest version), name@version, or the folder of an artifact. It is compared with a
    pretrained policy that is fine-tuned, a random initialization, and an oracle that observes the task. The artifact
    stores how its comparisons are fine-tuned. A policy with a memory is measured by episode of experience.

    The results of each task appear when they are measured. Ctrl-C ends the command and keeps the finished tasks in
    evaluation-partial.json.
    """
    from thetaprime.models import load_meta_policy, resolve_meta_policy
    from thetaprime.training.evaluation.evaluation import EvaluationPlan, held_methods
    from thetaprime.training.evaluation.figures.evaluation import curves_figure
    from thetaprime.training.evaluation.figures.lifetimes import lifetimes_figure
    from thetaprime.training.evaluation.figures.style import save
    from thetaprime.training.evaluation.lifetimes import LifetimePlan

    with suggesting(meta_policy, lambda: meta_policy_names(zoo)):
        artifact = load_meta_policy(resolve_meta_policy(meta_policy, zoo), zoo)
    folder = output or Path("runs") / "evaluation" / artifact.manifest.name
    numbers, figure = folder / "evaluation.json", plot or folder / "curves.png"
    for file in (numbers, figure):
        require_new_file(file, "--output", force=force)
    console = console_for(as_json)
    if artifact.recurrent:
        _refuse_rounds(methods, trajectories)
        with suggesting(beside or "", lambda: meta_policy_names(zoo)):
            gradient = load_meta_policy(resolve_meta_policy(beside)) if beside else None
        lived = _measured_lifetimes(artifact, LifetimePlan(tasks, seeds, episodes), gradient, console)
        measured = lived.to_json()
        folder.mkdir(parents=True, exist_ok=True)
        numbers.write_text(json.dumps(measured, indent=2) + "\n")
        save(lifetimes_figure(lived), figure)
        console.print(lifetimes_table(lived))
        console.print(f"wrote {numbers} and {figure}", soft_wrap=True)
        if as_json:
            print_json({**measured, "figure": str(figure)})
        return
    if beside is not None:
        raise click.UsageError(f"--beside: {artifact.label} has no memory; expected one, with the other beside it")
    plan = EvaluationPlan(tasks, seeds, methods or held_methods(artifact), gradient_steps, trajectories)
    evaluation = _measured(artifact, plan, console, folder / "evaluation-partial.json")
    result = evaluation.to_json()
    numbers.write_text(json.dumps(result, indent=2) + "\n")
    save(curves_figure(evaluation), figure)
    for table in evaluation_tables(evaluation):
        console.print(table)
    console.print(f"wrote {numbers} and {figure}", soft_wrap=True)
    if as_json:
        print_json({**result, "figure": str(figure)})


def _refuse_rounds(methods: tuple[str, ...] | None, trajectories: int | None) -> None:
    """Refuses the options of rounds for a policy with a memory."""
    for name, value in (("--methods", methods), ("--trajectories", trajectories)):
        if value is not None:
            raise click.UsageError(f"{name} is for policies that adapt by gradient; a memory takes --episodes")


def _measured_lifetimes(
    artifact: "MetaPolicy", plan: "LifetimePlan", beside: "MetaPolicy | None", console: "Console"
) -> "LifetimeEvaluation":
    from thetaprime.training.evaluation.lifetimes import evaluate_lifetimes, lifetime_comparisons, lifetime_work

    work = lifetime_work(plan, len(lifetime_comparisons(artifact)), beside)
    with work_progress(console, f"evaluating {artifact.label}", work, count=False) as advance:
        return evaluate_lifetimes(artifact, plan, beside=beside, on_trajectories=advance)


def _measured(artifact: "MetaPolicy", plan: "EvaluationPlan", console: "Console", partial: Path) -> "Evaluation":
    """Evaluates, shows each task when it is measured, and keeps the finished tasks in a file until all are measured.

    Raises:
        CommandError: interrupted; the file holds the finished tasks, if there are any.
    """
    from thetaprime.training.evaluation.evaluation import evaluate, evaluation_work

    planned = plan.tasks * len(plan.seeds)
    latest: Evaluation | None = None

    def keep(finished: "Evaluation") -> None:
        nonlocal latest
        before = len(latest.tasks) if latest else 0
        latest = finished
        _write_partial(partial, finished, planned)
        for task in range(before, len(finished.tasks)):
            console.print(f"task {task + 1} of {planned}: {task_text(finished, task)}", soft_wrap=True)

    partial.parent.mkdir(parents=True, exist_ok=True)
    work = evaluation_work(artifact, plan)
    try:
        with (
            _ended_by_sigterm(),
            work_progress(console, f"evaluating {artifact.label}", work, count=False) as advance,
        ):
            evaluation = evaluate(artifact, plan, on_trajectories=advance, on_tasks=keep)
    except KeyboardInterrupt as error:
        count, kept = 0, "nothing to keep"
        if latest is not None:
            _write_partial(partial, latest, planned)  # again: the interruption may have come before the first time
            count, kept = len(latest.tasks), f"their results are in {partial}"
        message = f"thetaprime evaluate: interrupted after {count} of {planned} tasks: {kept}"
        facts = {"tasks": count, "tasks_planned": planned, **({"partial": str(partial)} if count else {})}
        raise CommandError(message, "CANCELLED", facts, INTERRUPTED) from error
    partial.unlink(missing_ok=True)
    return evaluation


def _write_partial(path: Path, finished: "Evaluation", planned: int) -> None:
    written = path.with_suffix(".new")
    written.write_text(json.dumps({**finished.to_json(), "tasks_planned": planned}, indent=2) + "\n")
    written.replace(path)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Lets SIGTERM interrupt the body as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def task_text(evaluation: "Evaluation", task: int) -> str:
    """A task and the returns of each method on it, over gradient steps, in one line."""
    goal = " ".join(f"{name} {_numbers_text(value)}" for name, value in evaluation.tasks[task].items())
    parts = [
        f"{_NAMES[method]} " + " -> ".join(f"{value:.2f}" for value in curve[:, task])
        for method, curve in evaluation.returns.items()
    ]
    if evaluation.oracle is not None:
        parts.append(f"oracle {evaluation.oracle[task]:.2f}")
    return f"{goal}: " + "; ".join(parts)


def _numbers_text(value: Any) -> str:
    numbers = value if isinstance(value, (list, tuple)) else [value]
    return ", ".join(f"{each:.3g}" if isinstance(each, float) else str(each) for each in numbers)


def evaluation_tables(evaluation: "Evaluation") -> "list[Table]":
    """Tabulates the returns, the scores and the numbers of trajectories. Each table fits into 80 columns."""
    tables = [_returns_table(evaluation)]
    if "maml" in evaluation.returns:
        tables.append(_scores_table(evaluation))
    if evaluation.budgets:
        tables.append(_budgets_table(evaluation))
    return tables


def _returns_table(evaluation: "Evaluation") -> "Table":
    from rich.table import Table

    title = f"{evaluation.meta_policy}: {len(evaluation.tasks)} held-out tasks, {evaluation.trajectories} trajectories"
    caption = "mean return ± sd over tasks"
    if evaluation.oracle is not None:
        caption += f"; oracle {evaluation.oracle.mean():.2f} ± {evaluation.oracle.std():.2f}"
    returns = Table("step", *evaluation.returns, title=title, caption=caption)
    for step, row in enumerate(zip(*evaluation.returns.values(), strict=True)):
        returns.add_row(str(step), *(f"{each.mean():.2f} ± {each.std():.2f}" for each in row))
    return returns


def _scores_table(evaluation: "Evaluation") -> "Table":
    from rich.table import Table

    columns = {"step": list(map(str, range(len(evaluation.returns["maml"]))))}
    caption = None
    if evaluation.scored:
        low, high = evaluation.interval(evaluation.scores)
        columns["S_k"] = [f"{score:.3f}" for score in evaluation.scores()]
        columns["95 % interval"] = _ranges(low, high)
        if len(evaluation.seeds) > 1:
            by_seed = evaluation.scores_by_seed()
            columns["over seeds"] = _ranges(by_seed.min(0), by_seed.max(0))
    else:
        caption = "S_k needs the methods maml, pretrained and oracle"
    columns["R_k < R_0"] = ["–", *(f"{100 * share:.1f} %" for share in evaluation.negative_adaptation())]
    scores = Table(*columns, title="scores, and tasks that adaptation made worse", caption=caption)
    for row in zip(*columns.values(), strict=True):
        scores.add_row(*row)
    return scores


def _budgets_table(evaluation: "Evaluation") -> "Table":
    """Tabulates the return after one gradient step, and its score S_1, by the number of trajectories of that step."""
    from rich.table import Table

    columns = {
        "trajectories": list(map(str, evaluation.budgets)),
        "return": [f"{row.mean():.2f} ± {row.std():.2f}" for row in evaluation.by_budget],
    }
    if evaluation.scored:
        columns["S_1"] = [f"{score:.3f}" for score in evaluation.scores_by_budget()]
        columns["95 % interval"] = _ranges(*evaluation.interval(evaluation.scores_by_budget))
    table = Table(*columns, title="one gradient step on fewer or more trajectories")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def _ranges(low: Iterable[float], high: Iterable[float]) -> list[str]:
    return [f"{a:.3f}..{b:.3f}" for a, b in zip(low, high, strict=True)]
