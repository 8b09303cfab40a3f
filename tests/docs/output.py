"""Output that a page shows, against output that was printed."""

import re
from typing import Final

_CHANGING: Final = re.compile(r"\b[0-9a-f]{10,}…?|\btheta_\S+|[-+]?\d[\d.,:e+-]*")


def check_output(shown: str, printed: str, where: str) -> None:
    """Each line that a page shows must be one that was printed, in this order; numbers and ids apart.

    A line of ``...`` stands for any number of lines.

    Raises:
        AssertionError: a line is not there.
    """
    found = iter([_shape(line) for line in printed.splitlines()])
    for line in shown.splitlines():
        if line.strip() and line.strip() != "...":
            assert _shape(line) in found, f"{where}: {line!r} is not what was printed:\n{printed}"


def _shape(line: str) -> str:
    return " ".join(_CHANGING.sub("#", line).split())
