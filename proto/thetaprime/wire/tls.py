"""Checks of TLS files and addresses, for both ends of a connection.

gRPC accepts any bytes as certificates, and reports an error only when a handshake fails, on the other side.
"""

import ipaddress
import ssl
from pathlib import Path
from typing import Final, NamedTuple

from thetaprime.wire.errors import WireError

_LOCAL_SCHEMES: Final = ("unix:", "unix-abstract:")
_SCHEMES: Final = ("dns:", "ipv4:", "ipv6:")


class Identity(NamedTuple):
    """A certificate and its private key, PEM."""

    certificate: bytes
    key: bytes


def read_identity(certificate: Path, key: Path) -> Identity:
    """Reads a certificate (with its chain) and its private key.

    Raises:
        WireError: a file cannot be read or is not PEM, the key is encrypted, or it belongs to another certificate.
    """
    identity = Identity(_read(certificate, "certificate", b"CERTIFICATE"), _read(key, "key", b"PRIVATE KEY"))
    if b"ENCRYPTED" in identity.key:
        raise WireError(_named("key", key), "is encrypted; expected a private key without a passphrase")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise WireError(_named("key", key), f"does not belong to certificate {certificate}") from error
        raise WireError(
            _named("certificate", certificate), f"cannot be used with key {key} ({error.reason or error})"
        ) from error
    return identity


def read_authority(path: Path) -> bytes:
    """Reads the certificates of the authorities that may sign the other end's certificate.

    Raises:
        WireError: the file cannot be read or is not PEM.
    """
    pem = _read(path, "authority", b"CERTIFICATE")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii", "replace"))
    except ssl.SSLError as error:
        raise WireError(
            _named("authority", path), f"its certificates cannot be read ({error.reason or error})"
        ) from error
    return pem


def is_loopback(address: str) -> bool:
    """Whether data sent to ``host:port`` stays on this machine. False if the text does not show it."""
    if address.startswith(_LOCAL_SCHEMES):
        return True
    for scheme in _SCHEMES:
        address = address.removeprefix(scheme)
    address = address.rpartition("/")[2]
    bracketed = address.startswith("[")
    host = address[1:].partition("]")[0] if bracketed else address
    if not bracketed and host.count(":") == 1:
        host = host.partition(":")[0]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read(path: Path, role: str, kind: bytes) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WireError(_named(role, path), f"cannot be read ({error.strerror})") from error
    if b"-----BEGIN " not in data or kind + b"-----" not in data:
        raise WireError(_named(role, path), f"is not PEM; expected -----BEGIN {kind.decode()}-----")
    return data


def _named(role: str, path: Path) -> str:
    return f"TLS {role} {path}"
