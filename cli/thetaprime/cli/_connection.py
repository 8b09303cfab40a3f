"""How a command reaches a server: the options, and the client that they make."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from thetaprime.client import DEFAULT_ADDRESS, Client

_Function = TypeVar("_Function", bound=Callable[..., Any])
_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


def connection_options(function: _Function) -> _Function:
    """Adds what `connect` takes: the address, TLS files, a token's file and a configuration file."""
    # No values of click's own: what is not given here comes from the environment or the file.
    for option in reversed((
        click.option(
            "--address", help=f"The server's host and port (THETAPRIME_ADDRESS).  [default: {DEFAULT_ADDRESS}]"
        ),
        click.option("--tls", is_flag=True, help="Connect by TLS (THETAPRIME_TLS); a file below implies it."),
        click.option(
            "--tls-authority",
            type=_FILE,
            help="PEM file of those who sign the server's certificate (THETAPRIME_TLS_AUTHORITY).  "
            "[default: the public ones]",
        ),
        click.option(
            "--tls-certificate",
            type=_FILE,
            help="PEM file of your certificate, where the server asks for one (THETAPRIME_TLS_CERTIFICATE).",
        ),
        click.option("--tls-key", type=_FILE, help="PEM file of its private key (THETAPRIME_TLS_KEY)."),
        click.option(
            "--token-file",
            type=_FILE,
            # Never an option: what stands on a command line, everybody on the machine can read.
            help="File with your token in it (THETAPRIME_TOKEN_FILE). The token itself may be in THETAPRIME_TOKEN.",
        ),
        click.option(
            "--allow-plaintext", is_flag=True, help="Send the token to another machine even without TLS."
        ),
        click.option(
            "--config",
            type=_FILE,
            help="TOML file with such settings (THETAPRIME_CONFIG).  [default: ~/.config/thetaprime/client.toml]",
        ),
    )):  # fmt: skip
        function = option(function)
    return function


def connect(*, config: Path | None, tls: bool, allow_plaintext: bool, **settings: Any) -> Client:
    """The client that the options of `connection_options`, the environment and the configuration file ask for.

    Raises:
        InvalidInputError: the settings do not go together, or a file is not what it should be.
    """
    return Client.from_environment(config, tls=tls or None, allow_plaintext=allow_plaintext or None, **settings)
