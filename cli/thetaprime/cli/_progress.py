"""A bar for long work."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress


@contextmanager
def work_bar(console: Console, description: str, total: int | None) -> Iterator[Callable[[], None]]:
    """Shows a bar while the body runs; what it yields moves the bar on by one. None is a length that is not known."""
    # In a file or a pipe a bar that goes away would leave an empty line.
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        row = bar.add_task(description, total=total)
        yield lambda: bar.advance(row)
