"""The options that say how a command reaches a server, and the client that they make."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from thetaprime.cli._command import option

if TYPE_CHECKING:
    import grpc

    from thetaprime.client import Client

_Function = TypeVar("_Function", bound=Callable[..., Any])
_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
DEFAULT_ADDRESS: Final = "localhost:50051"
"""`thetaprime.client.DEFAULT_ADDRESS`, without the import."""

_option = functools.partial(option, section="Connection")


def connection_options(function: _Function) -> _Function:
    """Adds the options of `connect`: the address, TLS files, the file of a token, a configuration file."""
    # No defaults of click's: a value that is not given comes from the environment or from the file.
    for each in reversed((
        _option("--address", help=f"Host and port of the server (THETAPRIME_ADDRESS).  [default: {DEFAULT_ADDRESS}]"),
        _option("--tls", is_flag=True, help="Connect over TLS (THETAPRIME_TLS). A TLS file implies it."),
        _option(
            "--tls-authority",
            type=_FILE,
            help="PEM file of the authorities that sign the server's certificate (THETAPRIME_TLS_AUTHORITY).  "
            "[default: the public ones]",
        ),
        _option(
            "--tls-certificate",
            type=_FILE,
            help="PEM file of your certificate, for a server that asks for one (THETAPRIME_TLS_CERTIFICATE).",
        ),
        _option("--tls-key", type=_FILE, help="PEM file of the certificate's private key (THETAPRIME_TLS_KEY)."),
        _option(
            "--token-file",
            type=_FILE,
            # No option takes the token itself: every user of the machine can read a command line.
            help="File that holds your token (THETAPRIME_TOKEN_FILE). THETAPRIME_TOKEN may hold the token itself.",
        ),
        _option("--allow-plaintext", is_flag=True, help="Send the token to another machine even without TLS."),
        _option(
            "--config",
            type=_FILE,
            help="TOML file of these settings (THETAPRIME_CONFIG).  [default: ~/.config/thetaprime/client.toml]",
        ),
    )):  # fmt: skip
        function = each(function)
    return function


def connect(*, config: Path | None, tls: bool, allow_plaintext: bool, **settings: Any) -> "Client":
    """Returns the client of the options of `connection_options`, the environment and the configuration file.

    Raises:
        InvalidInputError: settings contradict each other, or a file does not hold what it should.
    """
    from thetaprime.client import Client

    return Client.from_environment(config, tls=tls or None, allow_plaintext=allow_plaintext or None, **settings)


def open_channel(
    *, config: Path | None, tls: bool, allow_plaintext: bool, **settings: Any
) -> "tuple[str, grpc.Channel]":
    """Returns the address and a channel of the same options, for a service that the client does not have.

    Calls on it carry no token.

    Raises:
        InvalidInputError: as `connect`.
    """
    import grpc

    from thetaprime.client import CHANNEL_OPTIONS
    from thetaprime.client._configuration import Configuration

    given = {**settings, "tls": tls or None, "allow_plaintext": allow_plaintext or None}
    found = Configuration.read(config, given).arguments()
    address, credentials = found["address"], found["credentials"]
    if credentials is None:
        return address, grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
    return address, grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
