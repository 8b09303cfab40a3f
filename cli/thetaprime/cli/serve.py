"""``thetaprime serve``."""

import asyncio
from typing import Any

import click

from thetaprime.cli._options import options_from
from thetaprime.server.runtime.tuning import freeze_startup_objects

with freeze_startup_objects():
    from thetaprime.server import ServerConfig, as_toml, serve


@click.command()
@options_from(ServerConfig)
@click.option("--show-config", is_flag=True, help="Print every setting as it would be used, as TOML, and exit.")
def command(given: dict[str, Any], show_config: bool) -> None:
    """Serve meta-policies for adaptation, over gRPC.

    Prints `serving on HOST:PORT` on stdout when it takes calls, and logs on stderr. SIGTERM and Ctrl-C let running
    calls finish. With --workers, so many processes share the address and the store. Every option can also be an
    environment variable, --max-sessions as THETAPRIME_SERVER_MAX_SESSIONS, or stand in the file that --config names,
    as max_sessions. Options override the environment, and that the file.
    """
    config = ServerConfig(**given)
    if show_config:
        click.echo(as_toml(config), nl=False)
        return
    asyncio.run(serve(config, lambda address: click.echo(f"serving on {address}")))
