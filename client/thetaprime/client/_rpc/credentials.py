"""Credentials of a client: TLS files and the token."""

import os
from pathlib import Path

import grpc

from thetaprime.client._errors import InvalidInputError
from thetaprime.wire import WireError
from thetaprime.wire.tls import is_loopback, read_authority, read_identity


def tls_credentials(
    authority: str | os.PathLike[str] | None = None,
    *,
    certificate: str | os.PathLike[str] | None = None,
    key: str | os.PathLike[str] | None = None,
) -> grpc.ChannelCredentials:
    """Reads the credentials of a TLS connection, for `Client`'s ``credentials``.

    Args:
        authority: PEM file of the certificate authorities to trust; None trusts gRPC's list of public authorities.
        certificate: PEM file of the client's certificate, for mutual TLS.
        key: PEM file of the certificate's private key.

    Raises:
        InvalidInputError: a file cannot be read or is not PEM, or one of `certificate` and `key` is missing.
    """
    if (certificate is None) != (key is None):
        given, missing = ("certificate", "key") if key is None else ("key", "certificate")
        raise InvalidInputError.at(missing, f"missing; {given} came without it")
    try:
        root = None if authority is None else read_authority(Path(authority))
        identity = None if certificate is None or key is None else read_identity(Path(certificate), Path(key))
    except WireError as error:
        raise InvalidInputError.at(error.field, error.problem) from error
    return grpc.ssl_channel_credentials(
        root, None if identity is None else identity.key, None if identity is None else identity.certificate
    )


def token_metadata(token: str | None, address: str, *, readable: bool) -> tuple[tuple[str, str], ...]:
    """Returns the metadata that carries a token. Errors do not quote the token.

    Args:
        token: the token; None returns no metadata.
        address: the server's address.
        readable: whether the connection is in plain text.

    Raises:
        InvalidInputError: the token is malformed, or would be sent in plain text to another machine.
    """
    if token is None:
        return ()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidInputError.at("token", "not a token; expected printable ASCII characters without spaces")
    if readable and not is_loopback(address):
        raise InvalidInputError.at(
            "token", f"not sent to {address} in plain text; expected TLS credentials, or allow_plaintext"
        )
    return (("authorization", f"Bearer {token}"),)
