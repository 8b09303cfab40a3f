"""Compares the output that a page shows with the output that was printed."""

import re
from typing import Final

_CHANGING: Final = re.compile(r"\b[0-9a-f]{10,}…?|\btheta_\S+|[-+]?\d[\d.,:e+-]*")


def check_output(shown: str, printed: str, where: str) -> None:
    """Checks that every shown line was printed, in this order. Numbers and ids may differ.

    A line of ``...`` stands for any number of lines.

    Raises:
        AssertionError: a line was not printed.
    """
    found = iter([_shape(line) for line in printed.splitlines()])
    for line in shown.splitlines():
        if line.strip() and line.strip() != "...":
            assert _shape(line) in found, f"{where}: {line!r} was not printed:\n{printed}"


def _shape(line: str) -> str:
    return " ".join(_CHANGING.sub("#", line).split())
