"""Errors as one line."""

from typing import Any, Final

import click

INTERRUPTED: Final = 130
"""What shells report for a program that Ctrl-C ended."""


def describe(error: Exception, program: str, extra: str) -> str:
    """What went wrong, and what mends it, in one line.

    Args:
        error: what a subcommand raised.
        program: the subcommand, as the user called it.
        extra: the extra that it may need.
    """
    if isinstance(error, ModuleNotFoundError) and extra and not (error.name or "").startswith("thetaprime"):
        return f"{program} needs the {extra} extra: pip install 'thetaprime[{extra}]'"
    return f"{program}: {message_of(error)}"


def message_of(error: Exception) -> str:
    """An error's message in one line, with its type where the message alone says too little."""
    notes = notes_of(error)
    return f"{_first_of(error)}; {notes}" if notes else _first_of(error)


def notes_of(error: BaseException) -> str:
    """What was added to an error on its way: how to go on, say."""
    return "; ".join(getattr(error, "__notes__", ()))


def _first_of(error: Exception) -> str:
    fields = _field_errors(error)
    if fields is not None:
        return fields
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    expected = isinstance(error, (ValueError, OSError, LookupError, RuntimeError)) and not isinstance(error, KeyError)
    if expected and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def exit_code(error: click.ClickException | click.Abort) -> int:
    """The status that the command ends with."""
    return INTERRUPTED if isinstance(error, click.Abort) else error.exit_code


def _field_errors(error: Exception) -> str | None:
    """The report of pydantic as ``field: problem (got value)``; None for other errors."""
    # By name: pydantic is not imported merely to describe an error that it did not raise.
    if type(error).__module__ != "pydantic_core._pydantic_core" or type(error).__name__ != "ValidationError":
        return None
    reports: list[dict[str, Any]] = error.errors()  # type: ignore[attr-defined]
    return "; ".join(
        f"{'.'.join(str(part) for part in report['loc'])}: {report['msg']} (got {report['input']!r})"
        for report in reports
        # A default that depends on the invalid field: the user did not give it.
        if report["type"] != "default_factory_not_called"
    )
