"""``thetaprime token``."""

import datetime
import os
from pathlib import Path
from typing import Final

import click

from thetaprime.cli._command import Command, option
from thetaprime.cli._files import NewFile, force_option, problem_of_file
from thetaprime.cli._output import json_option, print_json

_OWNER_ONLY: Final = 0o600


@click.command(
    cls=Command,
    examples=(
        "thetaprime token --tenant alice >> alice.txt",
        "thetaprime token --tenant robots --days 90 --tokens tokens.toml --output robots.token",
        "thetaprime token --tenant robots --days 90 --json",
    ),
)
@option("--tenant", required=True, metavar="NAME", help="Tenant that the token authenticates.")
@option("--days", type=click.IntRange(1), help="Days until the token expires.  [default: never]")
@option(
    "--tokens",
    "table",
    type=click.Path(dir_okay=False, path_type=Path),
    section="Output",
    help="Append the lines to this tokens file, in place of printing them. A running server reads it again.",
)
@option(
    "--output",
    type=NewFile(),
    section="Output",
    help="Write the token to this file, in place of printing it. Only its owner may read it.",
)
@force_option
@json_option
def command(tenant: str, days: int | None, table: Path | None, output: Path | None, force: bool, as_json: bool) -> None:
    """Create a token, and the lines that add it to a server's tokens file.

    The token is shown only once: the tokens file, and so the server, holds only its digest.
    """
    import pydantic

    from thetaprime.server.auth import new_token
    from thetaprime.server.auth.tokens import TokenEntry, token_digest

    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    expires = None if days is None else now + datetime.timedelta(days=days)
    token = new_token()
    try:
        entry = TokenEntry(tenant=tenant, sha256=token_digest(token), expires=expires)
    except pydantic.ValidationError as error:
        expected = "1 to 64 letters, digits and . _ -, beginning with a letter or digit"
        raise click.BadParameter(f"{tenant!r}; expected {expected}", param_hint="--tenant") from error
    lines = ["[[tokens]]", f'tenant = "{entry.tenant}"', f'sha256 = "{entry.sha256}"']
    if entry.expires is not None:
        lines.append(f"expires = {entry.expires.isoformat()}")
    if table is not None:
        _require_table(table)
    if output is not None:
        with os.fdopen(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _OWNER_ONLY), "w") as file:
            # The file may have existed.
            os.fchmod(file.fileno(), _OWNER_ONLY)
            file.write(f"{token}\n")
    if table is not None:
        _append(table, lines)
    if as_json:
        shown = {"token": token} if output is None else {"output": str(output)}
        print_json({"tenant": tenant, **shown, "lines": "\n".join(lines)})
        return
    if output is None:
        click.echo(f"for {tenant}, shown only once:\n\n{token}\n")
    else:
        click.echo(f"wrote {output}: the token of {tenant}")
    if table is None:
        click.echo("for the tokens file:\n")
        click.echo("\n".join(lines))
    else:
        click.echo(f"added its digest to {table}")


def _require_table(table: Path) -> None:
    """Checks a tokens file that lines are appended to.

    Raises:
        click.BadParameter: it cannot be written, or is no tokens file.
    """
    from thetaprime.server.auth.tokens import TokenFileError, TokenTable

    problem = problem_of_file(table, force=True)
    if not problem and table.exists():
        try:
            TokenTable.read(table)
        except TokenFileError as error:
            problem = str(error)
    if problem:
        raise click.BadParameter(problem, param_hint="--tokens")


def _append(table: Path, lines: list[str]) -> None:
    text = table.read_text(encoding="utf-8") if table.exists() else ""
    if text and not text.endswith("\n"):
        text += "\n"
    # A server that reads the file meanwhile sees the old file or the new one.
    partial = table.with_name(f".{table.name}.part")
    partial.write_text(text + ("\n" if text else "") + "\n".join(lines) + "\n", encoding="utf-8")
    if table.exists():
        partial.chmod(table.stat().st_mode)
    partial.replace(table)
