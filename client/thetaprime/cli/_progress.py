"""A bar for long work of known length."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress


@contextmanager
def work_bar(console: Console, description: str, total: int) -> Iterator[Callable[[], None]]:
    """Shows a bar while the body runs; what it yields moves the bar on by one."""
    with Progress(console=console, transient=True) as bar:
        row = bar.add_task(description, total=total)
        yield lambda: bar.advance(row)
