"""Errors as one line for people, and as a code with details for programs."""

from collections.abc import Mapping
from typing import Any, Final

import click

INTERRUPTED: Final = 130
"""Exit status that shells report for a program that Ctrl-C ended."""

DETAILS: Final = f"{__name__}.details"
"""Key in `click.Context.meta` of the details that a command adds to its error: a dictionary."""

# By name: an error's package is not imported to describe errors that it did not raise.
_CODES: Final = {
    "InvalidInputError": "INVALID_ARGUMENT",
    "NotFoundError": "NOT_FOUND",
    "StaleRoundError": "ABORTED",
    "PreconditionError": "FAILED_PRECONDITION",
    "LimitError": "RESOURCE_EXHAUSTED",
    "AccessError": "PERMISSION_DENIED",
    "DataLossError": "DATA_LOSS",
    "UnreachableError": "UNAVAILABLE",
    "DeadlineError": "DEADLINE_EXCEEDED",
    "ServerError": "INTERNAL",
    "CollectionError": "UNKNOWN",
    "ModuleNotFoundError": "FAILED_PRECONDITION",
    "KeyboardInterrupt": "CANCELLED",
    "FileNotFoundError": "NOT_FOUND",
    "FileExistsError": "ALREADY_EXISTS",
    "PermissionError": "PERMISSION_DENIED",
    "TimeoutError": "DEADLINE_EXCEEDED",
    "ConnectionError": "UNAVAILABLE",
    "ValueError": "INVALID_ARGUMENT",
    "LookupError": "NOT_FOUND",
}
_DETAILS: Final = ("reason", "details", "retry_after", "current_round", "session_id")


class CommandError(click.ClickException):
    """A command failed.

    Attributes:
        code: one of gRPC's canonical codes.
        details: facts about the failure, as JSON takes them.
        exit_code: status that the process ends with.
    """

    def __init__(self, message: str, code: str, details: Mapping[str, Any], status: int = 1) -> None:
        super().__init__(message)
        self.code = code
        self.details = dict(details)
        self.exit_code: int = status  # type: ignore[misc]

    @classmethod
    def of(cls, error: BaseException, program: str, extra: str, details: Mapping[str, Any]) -> "CommandError":
        """Describes an error that a command raised.

        Args:
            error: the error.
            program: the command, as the user called it.
            extra: the extra that the command may need.
            details: facts that the command adds.
        """
        found = {**_details_of(error), **details}
        if isinstance(error, ModuleNotFoundError) and extra and not (error.name or "").startswith("thetaprime"):
            install = f"pip install 'thetaprime[{extra}]'"
            message = f"{program} needs the {extra} extra: {install}"
            return cls(message, _code_of(error), {**found, "install": install})
        status = INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
        return cls(f"{program}: {message_of(error)}", _code_of(error), found, status)


def message_of(error: BaseException) -> str:
    """Returns an error's message and notes in one line, with the type where the message alone says too little."""
    return "; ".join((_message_alone(error), *getattr(error, "__notes__", ())))


def error_object(error: click.ClickException | click.Abort, message: str) -> dict[str, Any]:
    """Returns the JSON object of a failure: ``{"error": {"code", "message", "details"}}``."""
    code, details = "INVALID_ARGUMENT", {}
    if isinstance(error, CommandError):
        code, details = error.code, error.details
    elif isinstance(error, click.Abort):
        code = "CANCELLED"
    elif isinstance(error, click.UsageError) and error.ctx is not None:
        details = {"command": error.ctx.command_path}
    return {"error": {"code": code, "message": message, "details": details}}


def exit_status(error: click.ClickException | click.Abort) -> int:
    """Returns the status that the process ends with."""
    return INTERRUPTED if isinstance(error, click.Abort) else error.exit_code


def _code_of(error: BaseException) -> str:
    return next((_CODES[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _CODES), "UNKNOWN")


def _details_of(error: BaseException) -> dict[str, Any]:
    found = {name: value for name in _DETAILS if (value := getattr(error, name, None)) not in (None, "", {})}
    found.update(found.pop("details", {}))
    fields = _field_errors(error)
    if fields is None:
        fields = [(each.field, each.description) for each in getattr(error, "violations", ())]
    if fields:
        found["violations"] = [{"field": field, "description": description} for field, description in fields]
    return found


def _message_alone(error: BaseException) -> str:
    fields = _field_errors(error)
    if fields is not None:
        return "; ".join(f"{field}: {problem}" if field else problem for field, problem in fields)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    expected = isinstance(error, (ValueError, OSError, LookupError, RuntimeError)) and not isinstance(error, KeyError)
    if expected and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _field_errors(error: BaseException) -> list[tuple[str, str]] | None:
    """Returns field and problem of each error in a report of pydantic; None for other errors."""
    if type(error).__module__ != "pydantic_core._pydantic_core" or type(error).__name__ != "ValidationError":
        return None
    reports: list[dict[str, Any]] = error.errors()  # type: ignore[attr-defined]
    return [
        (
            ".".join(str(part) for part in report["loc"]),
            f"{report['msg'].removeprefix('Value error, ')} (got {report['input']!r})",
        )
        for report in reports
        if report["type"] != "default_factory_not_called"  # follows from another field's error
    ]
