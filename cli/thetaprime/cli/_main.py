"""The group of commands: imports a command when it runs, and reports every error in one line."""

import dataclasses
import importlib
import json
import sys
import traceback as tracebacks
from collections.abc import Sequence
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from thetaprime.cli._errors import DETAILS, CommandError, error_object, exit_status
from thetaprime.cli._suggestions import suggestion

PROGRAM: Final = "thetaprime"


@dataclasses.dataclass(frozen=True)
class Subcommand:
    """A command that is imported when it runs.

    Attributes:
        module: its module, which names the command ``command``.
        help: one line.
        extra: the extra to install where the command finds a package missing.
    """

    module: str
    help: str
    extra: str = ""


SUBCOMMANDS: Final = {
    "demo": Subcommand("thetaprime.cli.demo", "Adapt to an unseen goal, end to end, in seconds.", "server,training"),
    "serve": Subcommand("thetaprime.cli.serve", "Serve meta-policies for adaptation, over gRPC.", "server"),
    "token": Subcommand("thetaprime.cli.token", "Create a token for a tenant of a server.", "server"),
    "health": Subcommand("thetaprime.cli.health", "Ask a server whether it is serving.", "server"),
    "sessions": Subcommand("thetaprime.cli.sessions", "List, show and close the sessions of a server."),
    "store": Subcommand("thetaprime.cli.store", "Check, back up and upgrade the store of a server.", "server"),
    "plan": Subcommand("thetaprime.cli.plan", "Say what servers, database and storage a fleet needs."),
    "models": Subcommand("thetaprime.cli.models", "List the meta-policies of a server or of a folder.", "server"),
    "adapt": Subcommand("thetaprime.cli.adapt", "Adapt a meta-policy to an environment.", "training"),
    "explain": Subcommand("thetaprime.cli.explain", "Explain a step of a session, and its verdict.", "training"),
    "inspect": Subcommand("thetaprime.cli.inspect", "Verify and describe a policy or an artifact.", "server"),
    "new": Subcommand("thetaprime.cli.new", "Write a class of tasks to begin with, and its test."),
    "build": Subcommand("thetaprime.cli.build", "From a class of tasks to an artifact to serve.", "training"),
    "train": Subcommand("thetaprime.cli.train", "Meta-train a policy over a distribution of tasks.", "training"),
    "import": Subcommand("thetaprime.cli.import_policy", "Import a policy that was trained elsewhere.", "training"),
    "evaluate": Subcommand("thetaprime.cli.evaluate", "Measure a meta-policy on held-out tasks.", "training"),
    "compare": Subcommand("thetaprime.cli.compare", "Add comparisons to an artifact.", "training"),
    "export": Subcommand("thetaprime.cli.export", "Write runs as an artifact, or a policy for an engine.", "training"),
}


class LazyGroup(click.Group):
    """A group that lists its commands from `SUBCOMMANDS` and imports a command when it runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names in the order of the table."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports a command; None where there is no such command."""
        if cmd_name not in SUBCOMMANDS:
            return None
        try:
            command: click.Command = importlib.import_module(SUBCOMMANDS[cmd_name].module).command
        except ImportError as error:  # a package is missing
            if ctx.resilient_parsing:  # a shell completes, and shows no error
                return None
            raise _failure(ctx, cmd_name, error) from error
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command, or suggests one with a similar name."""
        name = args[0]
        if name not in SUBCOMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            hint = suggestion(name, SUBCOMMANDS)
            ctx.fail(f"No such command {name!r}{f'; {hint}' if hint else ''}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the table without importing a command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, subcommand.help) for name, subcommand in SUBCOMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Completes names of commands without importing them."""
        names = [
            CompletionItem(name, help=subcommand.help)
            for name, subcommand in SUBCOMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; every error becomes a `CommandError`."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except (Exception, KeyboardInterrupt) as error:
            raise _failure(ctx, ctx.invoked_subcommand or "", error) from error

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs the program: an error is one line on stderr, and with ``--json`` an object on stdout too."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        given = list(sys.argv[1:] if args is None else args)
        try:
            result = super().main(given, prog_name, complete_var, standalone_mode=False, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except (click.ClickException, click.Abort) as error:
            message = _one_line(error)
            click.echo(message, err=True)
            if "--json" in given:
                click.echo(json.dumps(error_object(error, message)))
            sys.exit(exit_status(error))
        sys.exit(result if isinstance(result, int) else 0)


def _failure(context: click.Context, name: str, error: BaseException) -> CommandError:
    if context.params["traceback"]:
        click.echo("".join(tracebacks.format_exception(error)), err=True, nl=False)
    extra = SUBCOMMANDS[name].extra if name in SUBCOMMANDS else ""
    return CommandError.of(error, f"{PROGRAM} {name}".rstrip(), extra, context.meta.get(DETAILS, {}))


def _one_line(error: click.ClickException | click.Abort) -> str:
    if isinstance(error, click.Abort):
        return f"{PROGRAM}: interrupted"
    message = " ".join(error.format_message().split())
    if isinstance(error, CommandError):
        return message
    # Where an option lacks its value, click's parser does not say of which command.
    path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else PROGRAM
    return f"{path}: {message.rstrip('.')} ({path} --help tells more)"


_EPILOG: Final = """\b
thetaprime demo                       first: adapts a policy to an unseen goal, in seconds
thetaprime COMMAND --help             options and examples of a command
eval "$(_THETAPRIME_COMPLETE=bash_source thetaprime)"
                                      completes names and values in bash; also zsh_source, fish_source
"""


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.option("--traceback", is_flag=True, help="Print the traceback of an error.")
@click.version_option(package_name=PROGRAM, prog_name=PROGRAM)
def cli(traceback: bool) -> None:
    """Few-shot adaptation of policies as a service: meta-learn offline, adapt over gRPC, run the result as ONNX."""


def main() -> None:
    """The entry point of the ``thetaprime`` command."""
    cli(prog_name=PROGRAM)
