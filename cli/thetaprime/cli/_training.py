"""What the commands that train show, and how Ctrl-C ends them."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from thetaprime.cli._progress import duration_text, status_lines

if TYPE_CHECKING:
    from rich.console import Console

    from thetaprime.training.recipe.settings import Recipe
    from thetaprime.training.run import Progress as Iteration

_SHOWN: Final = 6


def show_probe(console: "Console", seconds: float) -> None:
    """Says that a recipe measures the tasks now."""
    console.print(f"measuring the tasks for about {duration_text(seconds)}")


def show_recipe(console: "Console", found: "Recipe") -> None:
    """Shows what a recipe settled, and why."""
    measured = found.measured
    console.print(f"measured {measured.episodes} episodes of {measured.tasks} tasks; settled, and why:")
    for each in found.decisions:
        console.print(f"  {each.setting} = {_short(each.value)}: {each.reason}", soft_wrap=True)


def _short(value: Any) -> str:
    """A value in a few characters."""
    if isinstance(value, (list, tuple)):
        shown = ", ".join(f"{each:.3g}" for each in value[:_SHOWN])
        return f"[{shown}{', …' if len(value) > _SHOWN else ''}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


@contextlib.contextmanager
def iterations_shown(console: "Console", label: str = "") -> Iterator[Callable[["Iteration"], None]]:
    """Yields the function that shows an iteration: in a bar, or in a file as lines.

    Args:
        console: of people.
        label: of what is trained; empty for nothing.
    """
    prefix = f"{label}, " if label else ""
    if not console.is_terminal:
        with status_lines(console.print) as lines:
            if label:
                lines.show(label)

            def show(iteration: "Iteration") -> None:
                last = iteration.spent >= 1.0
                left = "" if last else f", {_left(iteration)}"
                text = f"{prefix}iteration {_count(iteration)}: {_returns(iteration)}{left}"
                lines.show(text, always=last or iteration.first)

            yield show
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=console) as bar:
        row = bar.add_task(label or "starting", total=1.0, count="", left="")
        yield lambda each: bar.update(
            row, completed=each.spent, description=prefix + _returns(each), count=_count(each), left=_left(each)
        )


def _count(iteration: "Iteration") -> str:
    of = "" if iteration.iterations is None else f" of {iteration.iterations}"
    return f"{iteration.iteration}{of}"


def _left(iteration: "Iteration") -> str:
    return f"about {duration_text(iteration.remaining_seconds)} left"


def _returns(iteration: "Iteration") -> str:
    return f"return {iteration.pre_return:.2f} -> {iteration.post_return:.2f}"


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Yields an event that Ctrl-C or SIGTERM sets, so that the iteration ends and is saved."""
    interrupted = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: FrameType | None) -> None:
        # Not through the console: the signal may arrive while the console holds its lock.
        os.write(2, b"stopping after this iteration; again to stop at once, back to the last checkpoint\n")
        interrupted.set()
        restore()

    for number in before:
        signal.signal(number, ask)
    try:
        yield interrupted
    finally:
        restore()
