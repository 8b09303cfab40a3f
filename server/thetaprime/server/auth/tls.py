"""How the server's port is secured."""

from pathlib import Path

import grpc
import structlog

from thetaprime.server.config import ServerConfig
from thetaprime.server.errors import StartupError
from thetaprime.wire import WireError
from thetaprime.wire.tls import is_loopback, read_authority, read_identity

_log = structlog.get_logger()


def server_credentials(config: ServerConfig) -> grpc.ServerCredentials | None:
    """The credentials of the server's port; None for plain text, where the settings allow it.

    Raises:
        StartupError: a file is missing or not what it should be, one is given without another that it needs, or
            plain text is not allowed on the address.
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
            raise StartupError(f"{name} {given}: it needs {needs} beside it")
    if not is_loopback(config.address):
        if not config.allow_plaintext:
            raise StartupError(
                f"address {config.address}: others can reach it, and plain text is for loopback addresses; give "
                "tls-certificate and tls-key, or allow-plaintext"
            )
        _log.warning("serving in plain text: whoever is on the way can read and change it", address=config.address)
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
