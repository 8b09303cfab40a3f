"""Progress of long work without a terminal."""

import io
import re
import threading

import pytest
from rich.console import Console

from thetaprime.cli._progress import duration_text, status_lines, work_progress


class _Lines(io.StringIO):
    """A file that tells when it has enough lines."""

    def __init__(self, wanted: int) -> None:
        super().__init__()
        self._wanted, self.enough = wanted, threading.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if self.getvalue().count("\n") >= self._wanted:
            self.enough.set()
        return written


def test_lines_go_on_while_one_piece_of_work_takes_long() -> None:
    file = _Lines(3)
    with work_progress(Console(file=file, width=200), "measuring", 10, count=False, seconds=0.02) as advance:
        advance(4)
        assert file.enough.wait(60.0)
        advance(6)
    first, second, *_, last = file.getvalue().splitlines()
    for line in (first, second):
        assert re.fullmatch(r"measuring: 40 %, about \d+ s left", line)
    assert last == "measuring: 100 %"


def test_pieces_are_counted_where_that_says_more() -> None:
    file = io.StringIO()
    with work_progress(Console(file=file, width=200), "writing", 3, seconds=3600.0) as advance:
        for _ in range(3):
            advance()
    assert re.fullmatch(r"writing: 1 of 3, about \d+ s left\nwriting: 3 of 3\n", file.getvalue())
    file = io.StringIO()
    with work_progress(Console(file=file, width=200), "rendering", None, seconds=3600.0) as advance:
        advance()
    assert file.getvalue() == "rendering: 1\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (44.6, "45 s"), (89.0, "89 s"), (100.0, "2 min"), (3599.0, "60 min"), (7500.0, "2 h 5 min")],
)
def test_a_duration_has_the_units_that_matter(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_a_status_is_repeated_with_its_age_while_nothing_changes() -> None:
    file = _Lines(4)
    with status_lines(lambda line: print(line, file=file), seconds=0.02) as lines:
        lines.show("iteration 1 of 3", always=True)
        assert file.enough.wait(60.0)
        lines.show("iteration 3 of 3", always=True)
    first, *between, last = file.getvalue().splitlines()
    assert (first, last) == ("iteration 1 of 3", "iteration 3 of 3")
    assert all(re.fullmatch(r"iteration 1 of 3; \d+ s since", line) for line in between)


def test_a_status_between_two_lines_waits_for_its_turn() -> None:
    file = io.StringIO()
    with status_lines(lambda line: print(line, file=file), seconds=60.0) as lines:
        lines.show("first", always=True)
        for number in range(5):
            lines.show(str(number))
    assert file.getvalue() == "first\n"
