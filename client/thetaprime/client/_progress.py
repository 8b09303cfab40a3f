"""Progress of an adaptation: bars in a terminal and in a notebook, lines in a file, calls for a program."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from thetaprime.client._errors import InvalidInputError
from thetaprime.client._types import Progress

if TYPE_CHECKING:
    from rich.console import Console

ProgressOption: TypeAlias = Callable[[Progress], None] | bool | None
"""A callable; True shows progress, False does not; None shows it in a terminal or a notebook."""

Show: TypeAlias = Callable[[Progress], None]

LINE_SECONDS: Final = 10.0
"""Shortest time between two progress lines in a file or a pipe."""
_REDRAW_SECONDS: Final = 0.1
_BAR_CELLS: Final = 20


@contextlib.contextmanager
def progress_callback(progress: ProgressOption) -> Iterator[Show]:
    """Yields the callable that receives the progress while the body runs.

    Raises:
        InvalidInputError: `progress` is not a `ProgressOption`.
    """
    if callable(progress):
        yield progress
    elif progress is True or (progress is None and (_notebook_display() is not None or _stderr_is_terminal())):
        with progress_bars() as show:
            yield show
    elif progress is None or progress is False:
        yield lambda _: None
    else:
        raise InvalidInputError.at("progress", f"{progress!r}; expected a callable, True, False or None")


@contextlib.contextmanager
def progress_bars(console: "Console | None" = None) -> Iterator[Show]:
    """Shows one bar for each round; lines where neither a terminal nor a notebook can redraw a bar.

    Args:
        console: where to show them; None is the notebook's cell, or stderr.
    """
    display = _notebook_display() if console is None else None
    if display is not None:
        yield _notebook_bars(display)
        return
    # Imported only now: a program without a terminal does not need it.
    from rich.console import Console

    console = console or Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _lines(ProgressLines(lambda line: console.print(line, soft_wrap=True)))
        return
    with _terminal_bars(console) as show:
        yield show


class ProgressLines:
    """Writes progress as lines, at most one every `LINE_SECONDS`.

    Args:
        write: writes one line.
        seconds: shortest time between two lines.
    """

    def __init__(self, write: Callable[[str], None], seconds: float = LINE_SECONDS) -> None:
        self._write = write
        self._seconds = seconds
        self._next = float("-inf")

    def show(self, line: str, *, always: bool = False) -> None:
        """Writes a line if it is the first, if the last one is old enough, or if it is always written."""
        now = time.monotonic()
        if always or now >= self._next:
            self._next = now + self._seconds
            self._write(line)


def _lines(lines: ProgressLines) -> Show:
    def show(progress: Progress) -> None:
        lines.show(f"{_text(progress)}  {_count(progress)}", always=progress.report is not None)

    return show


def _notebook_bars(display: Any) -> Show:
    # Plain text: rich's bars need ipywidgets, and show nothing but a warning without.
    handles: dict[int, Any] = {}
    drawn: dict[int, float] = {}

    def show(progress: Progress) -> None:
        now = time.monotonic()
        if progress.report is None and now < drawn.get(progress.round, float("-inf")) + _REDRAW_SECONDS:
            return
        drawn[progress.round] = now
        full = min(_BAR_CELLS, _BAR_CELLS * progress.collected // max(1, progress.trajectories))
        bar = "█" * full + "░" * (_BAR_CELLS - full)
        content = {"text/plain": f"{bar} {_count(progress)}  {_text(progress)}"}
        if progress.round in handles:
            handles[progress.round].update(content, raw=True)
        else:
            handles[progress.round] = display(content, raw=True, display_id=True)

    return show


@contextlib.contextmanager
def _terminal_bars(console: "Console") -> Iterator[Show]:
    from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    rows: dict[int, TaskID] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"), TimeElapsedColumn())

    def show(progress: Progress) -> None:
        text, count = _text(progress), _count(progress)
        if progress.round not in rows:
            rows[progress.round] = bars.add_task(text, total=progress.trajectories, count=count)
        bars.update(rows[progress.round], completed=progress.collected, description=text, count=count)

    with Bars(*columns, console=console) as bars:
        yield show


def _text(progress: Progress) -> str:
    if progress.verifying:
        return "verification"
    text = f"round {progress.round + 1}"
    if progress.report is not None:
        text += f"  return {progress.report.mean_return:.3g} ± {progress.report.std_return:.3g}"
    return text


def _count(progress: Progress) -> str:
    return f"{progress.collected}/{progress.trajectories} episodes"


def _stderr_is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _notebook_display() -> Any:
    """Returns the function that displays in a Jupyter cell; None outside a notebook."""
    ipython = sys.modules.get("IPython")  # a notebook's kernel has imported it
    shell = None if ipython is None else ipython.get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import display

    return display
