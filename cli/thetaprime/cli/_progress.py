"""Progress of long work: a bar in a terminal, lines elsewhere, with the time that is left."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from rich.console import Console

LINE_SECONDS: Final = 10.0
"""Longest time without a line in a file or a pipe."""
_MINUTE, _HOUR = 60.0, 3600.0


class Advance(Protocol):
    """Counts finished work."""

    def __call__(self, amount: int = 1, /) -> None:
        """Counts some pieces of work, one by default."""


@contextmanager
def work_progress(
    console: "Console", description: str, total: int | None, *, count: bool = True, seconds: float = LINE_SECONDS
) -> Iterator[Advance]:
    """Shows progress while the body runs, and yields the function that counts finished pieces of work.

    Args:
        console: a terminal gets a bar; a file or a pipe gets a line at the first piece, at the last piece and every
            `seconds` between, also while no piece is finished.
        description: the work, in a few words.
        total: pieces of work; None where the number is unknown.
        count: whether lines show the number of pieces; otherwise they show the percentage.
        seconds: between two lines.
    """
    if console.is_terminal:
        from rich.progress import Progress

        with Progress(console=console, transient=True) as bar:
            row = bar.add_task(description, total=total)
            yield lambda amount=1, /: bar.advance(row, amount)
        return
    lines = _Lines(console.print, description, total, count=count, seconds=seconds)
    ended = threading.Event()
    clock = threading.Thread(target=lines.run, args=(ended,), name="progress", daemon=True)
    clock.start()
    try:
        yield lines.advance
    finally:
        ended.set()
        clock.join()


@contextmanager
def status_lines(write: Callable[[str], None], *, seconds: float = LINE_SECONDS) -> Iterator["StatusLines"]:
    """Shows the status of long work as a line every `seconds` while the body runs, also while nothing changes.

    Args:
        write: writes one line.
        seconds: between two lines.
    """
    lines = StatusLines(write, seconds)
    ended = threading.Event()
    clock = threading.Thread(target=lines.run, args=(ended,), name="progress", daemon=True)
    clock.start()
    try:
        yield lines
    finally:
        ended.set()
        clock.join()


class StatusLines:
    """The newest status of long work, written at most every few seconds: see `status_lines`."""

    def __init__(self, write: Callable[[str], None], seconds: float) -> None:
        self._write, self._seconds = write, seconds
        self._status, self._changed = "", time.monotonic()
        self._next = time.monotonic() + seconds
        self._shown = True
        self._lock = threading.Lock()

    def show(self, status: str, *, always: bool = False) -> None:
        """Sets the status. It is written at once if `always`, or if the last line is old enough."""
        with self._lock:
            self._status, self._changed, self._shown = status, time.monotonic(), False
            if always or self._changed >= self._next:
                self._print(status)

    def run(self, ended: threading.Event) -> None:
        """Writes the status whenever the last line is old enough, until the work has ended."""
        wait = self._seconds
        while not ended.wait(wait):
            with self._lock:
                now = time.monotonic()
                if now >= self._next:
                    since = f"{self._status}; {duration_text(now - self._changed)} since".lstrip("; ")
                    self._print(since if self._shown else self._status)
                wait = max(self._next - time.monotonic(), 0.01)

    def _print(self, line: str) -> None:
        self._next, self._shown = time.monotonic() + self._seconds, True
        self._write(line)


class _Lines:
    """Progress as lines, also while one piece of work takes long."""

    def __init__(
        self, write: Callable[[str], None], description: str, total: int | None, *, count: bool, seconds: float
    ) -> None:
        self._write, self._description, self._total = write, description, total
        self._count, self._seconds = count, seconds
        self._started = time.monotonic()
        self._done, self._next = 0, float("-inf")
        self._lock = threading.Lock()

    def advance(self, amount: int = 1, /) -> None:
        with self._lock:
            self._done += amount
            self._show(always=self._done == self._total)

    def run(self, ended: threading.Event) -> None:
        """Writes a line whenever the last one is old enough, until the work has ended."""
        wait = self._seconds
        while not ended.wait(wait):
            with self._lock:
                self._show()
                wait = max(self._next - time.monotonic(), 0.01)

    def _show(self, *, always: bool = False) -> None:
        now = time.monotonic()
        if always or now >= self._next:
            self._next = now + self._seconds
            self._write(f"{self._description}: {self._text(now - self._started)}")

    def _text(self, elapsed: float) -> str:
        if self._total is None:
            return str(self._done)
        done = f"{self._done} of {self._total}" if self._count else f"{100 * self._done // self._total} %"
        if not 0 < self._done < self._total:
            return done
        return f"{done}, about {duration_text(elapsed * (self._total - self._done) / self._done)} left"


def duration_text(seconds: float) -> str:
    """A duration in the two largest units that matter: ``40 s``, ``3 min``, ``2 h 5 min``."""
    if seconds < 1.5 * _MINUTE:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / _MINUTE)
    if seconds < _HOUR:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
