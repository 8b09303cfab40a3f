"""Parses the addresses that a server listens on."""

from typing import Final

_UNIX_SCHEMES: Final = ("unix:", "unix-abstract:")
_LAST_PORT: Final = 65535


def is_unix_socket(address: str) -> bool:
    """Whether an address names a Unix socket, which has no port."""
    return address.startswith(_UNIX_SCHEMES)


def split_address(address: str) -> tuple[str, int]:
    """Splits ``host:port`` into the host, without the brackets of an IPv6 address, and the port.

    gRPC accepts any number as a port, and listens on the number modulo 65536.

    Raises:
        ValueError: the address has a scheme, an IPv6 host without brackets, no port, or a port outside 0 to 65535. The
            message says which, and what to write instead.
    """
    scheme, separator, rest = address.partition("://")
    if separator:
        raise ValueError(f"starts with {scheme}://; expected host:port without a scheme: {rest.strip('/')}")
    host, separator, port = address.rpartition(":")
    if not separator or address.endswith("]"):
        raise ValueError(f"has no port; expected host:port, such as {address}:50051")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError("has an IPv6 host without brackets; expected [host]:port, such as [::1]:50051")
    if not (port.isascii() and port.isdigit() and int(port) <= _LAST_PORT):
        raise ValueError(f"has port {port!r}; expected a number from 0 to {_LAST_PORT} (0: any free port)")
    return host.strip("[]"), int(port)
