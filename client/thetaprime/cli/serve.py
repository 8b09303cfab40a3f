"""``thetaprime serve``."""

import asyncio
from typing import Any

import click

from thetaprime.cli._options import options_from
from thetaprime.server import ServerConfig, serve


@click.command()
@options_from(ServerConfig)
def command(given: dict[str, Any]) -> None:
    """Serve meta-policies for adaptation, over gRPC.

    Prints `serving on HOST:PORT` on stdout when it takes calls, and logs on stderr. SIGTERM and Ctrl-C let running
    calls finish. Every option can also be an environment variable: --max-sessions is THETAPRIME_SERVER_MAX_SESSIONS.
    """
    asyncio.run(serve(ServerConfig(**given), lambda address: click.echo(f"serving on {address}")))
