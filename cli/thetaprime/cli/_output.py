"""Text for people, and one JSON object for programs."""

import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from thetaprime.cli._command import option

if TYPE_CHECKING:
    from rich.console import Console

_FILE_WIDTH: Final = 10_000
_Function = TypeVar("_Function", bound=Callable[..., Any])


def json_option(function: _Function) -> _Function:
    """Adds ``--json``, as the argument ``as_json``."""
    return option(
        "--json", "as_json", is_flag=True, help="End with one JSON object on the last line of stdout, errors included."
    )(function)


def console_for(as_json: bool) -> "Console":
    """Returns the console of people: stdout, or stderr where stdout belongs to a program."""
    from rich.console import Console

    console = Console(stderr=as_json, highlight=False, markup=False)  # names of files may hold brackets
    if not console.is_terminal:
        console.width = _FILE_WIDTH  # nothing is cut or folded in a file or a pipe
    return console


def print_json(value: dict[str, Any]) -> None:
    """Prints one JSON object on one line. JSON has no infinity and no NaN: they become null."""
    click.echo(json.dumps(_finite(value), allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return value
