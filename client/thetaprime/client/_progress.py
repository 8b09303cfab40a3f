"""Shows the progress of an adaptation as bars in a terminal, or reports it to a callable."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from thetaprime.client._errors import InvalidInputError
from thetaprime.client._types import Progress

if TYPE_CHECKING:
    from rich.console import Console

ProgressOption: TypeAlias = Callable[[Progress], None] | bool | None
"""A callable; True shows bars, False shows none, None shows bars if stderr is a terminal."""


@contextlib.contextmanager
def progress_callback(progress: ProgressOption) -> Iterator[Callable[[Progress], None]]:
    """Yields the callable that receives the progress while the body runs.

    Raises:
        InvalidInputError: `progress` is not a `ProgressOption`.
    """
    if callable(progress):
        yield progress
    elif progress is True or (progress is None and sys.stderr is not None and sys.stderr.isatty()):
        with progress_bars() as show:
            yield show
    elif progress is None or progress is False:
        yield lambda _: None
    else:
        raise InvalidInputError.at("progress", f"{progress!r}; expected a callable, True, False or None")


@contextlib.contextmanager
def progress_bars(console: "Console | None" = None) -> Iterator[Callable[[Progress], None]]:
    """Shows one bar per round while the body runs.

    Args:
        console: the console; None is stderr.
    """
    # Imported late: programs without a terminal do not need rich.
    from rich.console import Console
    from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    rows: dict[int, TaskID] = {}
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} episodes"),
        TimeElapsedColumn(),
        console=console or Console(stderr=True, highlight=False),
    )

    def show(progress: Progress) -> None:
        text = f"round {progress.round + 1}"
        if progress.round not in rows:
            rows[progress.round] = bars.add_task(text, total=progress.trajectories)
        if progress.report is not None:
            text += f"  return {progress.report.mean_return:.3g} ± {progress.report.std_return:.3g}"
        bars.update(rows[progress.round], completed=progress.collected, description=text)

    with bars:
        yield show
