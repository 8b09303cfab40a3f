"""The command line that resumes a session."""

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from thetaprime.cli._command import RAW_ARGUMENTS
from thetaprime.cli._errors import DETAILS

if TYPE_CHECKING:
    from thetaprime.client import Session

_REPLACED: Final = ("meta_policy", "session_id")


def resume_command(context: click.Context, session_id: str) -> list[str]:
    """Returns the command line, in words, that goes on with a session and has the options that were typed."""
    values, _, order = context.command.make_parser(context).parse_args(list(context.meta[RAW_ARGUMENTS]))
    given = [each for each in dict.fromkeys(order) if isinstance(each, click.Option) and each.name not in _REPLACED]
    words = [*context.command_path.split(), "--resume", session_id]
    for parameter in given:
        value: Any = values[str(parameter.name)]
        if parameter.is_flag:
            words.append(parameter.opts[0])
            continue
        for each in value if parameter.multiple else [value]:
            words += [parameter.opts[0], str(each)]
    return words


@contextlib.contextmanager
def resumable(context: click.Context, session: "Session", output: Path) -> Iterator[None]:
    """Adds to every error of the body, Ctrl-C included, the command line that resumes the session.

    Args:
        context: of the command.
        session: the session.
        output: the file that the command writes at the end.
    """
    try:
        yield
    except BaseException as error:
        words = resume_command(context, session.id)
        if output.exists() and "--force" not in words:
            words.append("--force")  # this run wrote the file, and failed afterward
        command = shlex.join(words)
        if not any(session.id in note for note in getattr(error, "__notes__", ())):
            error.add_note(f"session {session.id} is in round {session.round}")
        error.add_note(f"resume with: {command}")
        context.meta[DETAILS] = {"session_id": session.id, "round": session.round, "resume": command}
        raise
