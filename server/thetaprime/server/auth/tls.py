"""Reads the TLS credentials of the server's port."""

from pathlib import Path

import grpc
import structlog

from thetaprime.server.config import ServerConfig
from thetaprime.server.errors import StartupError
from thetaprime.wire import WireError
from thetaprime.wire.tls import is_loopback, read_authority, read_identity

_log = structlog.get_logger()


def server_credentials(config: ServerConfig) -> grpc.ServerCredentials | None:
    """Returns the TLS credentials of the server's port, or None for plain text.

    Raises:
        StartupError: a file is missing or invalid, a setting lacks another that it needs, or the settings do not allow
            plain text on the address.
    """
    certificate, key, authority = config.tls_certificate, config.tls_key, config.tls_client_authority
    if certificate is not None and key is not None:
        return _credentials(certificate, key, authority)
    for name, given, needs in (
        ("tls-certificate", certificate, "tls-key"),
        ("tls-key", key, "tls-certificate"),
        ("tls-client-authority", authority, "tls-certificate and tls-key"),
    ):
        if given is not None:
            raise StartupError(f"{name} {given}: needs {needs} as well")
    if not is_loopback(config.address):
        if not config.allow_plaintext:
            raise StartupError(
                f"address {config.address}: other machines can reach it, and plain text is allowed on loopback "
                "addresses only; set tls-certificate and tls-key, or allow-plaintext"
            )
        _log.warning("serving in plain text: the network can read and change every call", address=config.address)
    return None


def _credentials(certificate: Path, key: Path, authority: Path | None) -> grpc.ServerCredentials:
    try:
        identity = read_identity(certificate, key)
        root = None if authority is None else read_authority(authority)
    except WireError as error:
        raise StartupError(str(error)) from error
    return grpc.ssl_server_credentials(
        [(identity.key, identity.certificate)], root_certificates=root, require_client_auth=root is not None
    )
