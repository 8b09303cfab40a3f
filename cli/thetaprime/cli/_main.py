"""The group of subcommands: loaded lazily, with every error as one line."""

import dataclasses
import importlib
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from thetaprime.cli._errors import describe, exit_code, notes_of

PROGRAM: Final = "thetaprime"


@dataclasses.dataclass(frozen=True)
class Subcommand:
    """Where a subcommand is found; its module's ``command`` is imported when it runs.

    Attributes:
        module: the module.
        help: one line.
        extra: what to install beside ``thetaprime`` where the subcommand finds a package missing.
    """

    module: str
    help: str
    extra: str = ""


SUBCOMMANDS: Final = {
    "demo": Subcommand("thetaprime.cli.demo", "Adapt to an unseen goal, end to end, in seconds.", "server,training"),
    "serve": Subcommand("thetaprime.cli.serve", "Serve meta-policies for adaptation, over gRPC.", "server"),
    "token": Subcommand("thetaprime.cli.token", "Make a token for a tenant of a server.", "server"),
    "models": Subcommand("thetaprime.cli.models", "List the meta-policies of a server or of a folder.", "server"),
    "adapt": Subcommand("thetaprime.cli.adapt", "Adapt a meta-policy to an environment.", "training"),
    "inspect": Subcommand("thetaprime.cli.inspect", "Verify and describe a policy or an artifact.", "server"),
    "train": Subcommand("thetaprime.cli.train", "Meta-train a policy over a distribution of tasks.", "training"),
    "evaluate": Subcommand("thetaprime.cli.evaluate", "Measure a meta-policy on tasks not seen before.", "training"),
    "export": Subcommand("thetaprime.cli.export", "Write runs as an artifact, or a policy for an engine.", "training"),
}


class LazyGroup(click.Group):
    """A group that knows its subcommands by `SUBCOMMANDS` and imports one when it runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The subcommands, in the order of the table."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports a subcommand."""
        subcommand = SUBCOMMANDS.get(cmd_name)
        if subcommand is None:
            return None
        try:
            command: click.Command = importlib.import_module(subcommand.module).command
        except Exception as error:  # a package that is missing, say
            if ctx.params["traceback"]:
                raise
            raise _failure(cmd_name, error) from error
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the table, importing nothing."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, subcommand.help) for name, subcommand in SUBCOMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a subcommand; whatever it raises becomes one line, unless a traceback was asked for."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if ctx.params["traceback"]:
                raise
            raise _failure(ctx.invoked_subcommand or "", error) from error

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """As click's, but every error is one line on stderr."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            result = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except (click.ClickException, click.Abort) as error:
            click.echo(_one_line(error), err=True)
            sys.exit(exit_code(error))
        sys.exit(result if isinstance(result, int) else 0)


class CommandError(click.ClickException):
    """A subcommand failed; the message is one line."""


def _failure(name: str, error: Exception) -> CommandError:
    extra = SUBCOMMANDS[name].extra if name in SUBCOMMANDS else ""
    return CommandError(describe(error, f"{PROGRAM} {name}", extra))


def _one_line(error: click.ClickException | click.Abort) -> str:
    if isinstance(error, click.Abort):
        # Of Ctrl-C, which click hides: the work may have said how to go on.
        notes = notes_of(error.__cause__ or error)
        return f"aborted; {notes}" if notes else "aborted"
    message = " ".join(error.format_message().split())
    if isinstance(error, CommandError):
        return message
    # Where an option lacks its value, click's parser does not say of which subcommand.
    path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else PROGRAM
    return f"{path}: {message.rstrip('.')} ({path} --help tells more)"


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--traceback", is_flag=True, help="On an error, show where it came from.")
@click.version_option(package_name=PROGRAM, prog_name=PROGRAM)
def cli(traceback: bool) -> None:
    """Few-shot adaptation of policies as a service: meta-learn offline, adapt over gRPC, run the result as ONNX."""


def main() -> None:
    """The entry point of the ``thetaprime`` command."""
    cli(prog_name=PROGRAM)
