"""``thetaprime token``."""

import datetime

import click

from thetaprime.cli._command import Command, option
from thetaprime.cli._output import json_option, print_json


@click.command(
    cls=Command,
    examples=("thetaprime token --tenant alice >> alice.txt", "thetaprime token --tenant robots --days 90 --json"),
)
@option("--tenant", required=True, metavar="NAME", help="Tenant that the token authenticates.")
@option("--days", type=click.IntRange(1), help="Days until the token expires.  [default: never]")
@json_option
def command(tenant: str, days: int | None, as_json: bool) -> None:
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
    if as_json:
        print_json({"tenant": tenant, "token": token, "lines": "\n".join(lines)})
    else:
        click.echo(f"for {tenant}, shown only once:\n\n{token}\n\nfor the tokens file:\n")
        click.echo("\n".join(lines))
