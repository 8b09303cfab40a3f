"""Suggestions for a mistyped name."""

import contextlib
import difflib
from collections.abc import Callable, Iterable, Iterator


def suggestion(name: str, known: Iterable[str]) -> str:
    """Returns ``did you mean 'x'?`` for the closest known name; empty where `name` is known or resembles none."""
    names = list(known)
    close = [] if name in names else difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else ""


@contextlib.contextmanager
def suggesting(name: str, known: Callable[[], Iterable[str]]) -> Iterator[None]:
    """Adds a suggestion, as a note, to an error that the body raises.

    Args:
        name: the name that a person typed.
        known: lists the names that exist; called only after an error.
    """
    try:
        yield
    except (LookupError, ValueError) as error:
        with contextlib.suppress(Exception):  # the first error is the one to report
            if hint := suggestion(name, known()):
                error.add_note(hint)
        raise
