"""How a command reaches a server: the options, and the client that they make."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from thetaprime.client import DEFAULT_ADDRESS, Client, tls_credentials

TOKEN_VARIABLE: Final = "THETAPRIME_TOKEN"  # noqa: S105  # its name
_Function = TypeVar("_Function", bound=Callable[..., Any])
_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


def connection_options(function: _Function) -> _Function:
    """Adds what `connect` takes: the address, TLS files and a token's file."""
    for option in reversed((
        click.option(
            "--address",
            envvar="THETAPRIME_ADDRESS",
            default=DEFAULT_ADDRESS,
            show_default=True,
            help="The server's host and port.",
        ),
        click.option("--tls", is_flag=True, envvar="THETAPRIME_TLS", help="Connect by TLS; a file below implies it."),
        click.option(
            "--tls-authority",
            type=_FILE,
            envvar="THETAPRIME_TLS_AUTHORITY",
            help="PEM file of those who sign the server's certificate.  [default: the public ones]",
        ),
        click.option(
            "--tls-certificate",
            type=_FILE,
            envvar="THETAPRIME_TLS_CERTIFICATE",
            help="PEM file of your certificate, where the server asks for one.",
        ),
        click.option("--tls-key", type=_FILE, envvar="THETAPRIME_TLS_KEY", help="PEM file of its private key."),
        click.option(
            "--token-file",
            type=_FILE,
            envvar="THETAPRIME_TOKEN_FILE",
            help=f"File with your token in it. The token itself may be in {TOKEN_VARIABLE}.",
        ),
        click.option(
            "--allow-plaintext", is_flag=True, help="Send the token to another machine even without TLS."
        ),
    )):  # fmt: skip
        function = option(function)
    return function


def connect(
    address: str,
    *,
    tls: bool,
    tls_authority: Path | None,
    tls_certificate: Path | None,
    tls_key: Path | None,
    token_file: Path | None,
    allow_plaintext: bool,
) -> Client:
    """The client that the options of `connection_options` ask for.

    Raises:
        InvalidInputError: the options do not go together, or a file is not what it should be.
    """
    secure = tls or any((tls_authority, tls_certificate, tls_key))
    return Client(
        address,
        credentials=tls_credentials(tls_authority, certificate=tls_certificate, key=tls_key) if secure else None,
        token=_token(token_file),
        allow_plaintext=allow_plaintext,
    )


def _token(file: Path | None) -> str | None:
    # Never from an option: what stands on a command line, everybody on the machine can read.
    if file is not None:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    return os.environ.get(TOKEN_VARIABLE)
