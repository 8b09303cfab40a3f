"""Progress of long work: a bar in a terminal, lines elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def work_progress(console: "Console", description: str, total: int | None) -> Iterator[Callable[[], None]]:
    """Shows progress while the body runs, and yields the function that counts one piece of work.

    Args:
        console: a terminal gets a bar, a file or a pipe a line every 10 seconds.
        description: the work, in a few words.
        total: pieces of work; None where the number is unknown.
    """
    if console.is_terminal:
        from rich.progress import Progress

        with Progress(console=console, transient=True) as bar:
            row = bar.add_task(description, total=total)
            yield lambda: bar.advance(row)
        return
    from thetaprime.client._progress import ProgressLines

    lines, done = ProgressLines(console.print), 0

    def advance() -> None:
        nonlocal done
        done += 1
        lines.show(f"{description}: {done}" + (f" of {total}" if total is not None else ""), always=done == total)

    yield advance
