"""Parses the addresses that a server listens on."""

import functools
import ipaddress
import urllib.parse
from typing import Final

_UNIX_SCHEMES: Final = ("unix:", "unix-abstract:")
_LAST_PORT: Final = 65535
# Bits of an IPv6 address that its owner chooses: providers assign at least such a network.
_IPV6_HOST: Final = 64


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


@functools.lru_cache(4096)
def normalize_host(host: str) -> tuple[str, str]:
    """Returns an address in its shortest form, and the address or network whose use is counted together.

    An IPv4 address in IPv6 form becomes an IPv4 address. IPv6 addresses are counted by their network of 64 bits.

    Raises:
        ValueError: the host is no address.
    """
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if isinstance(address, ipaddress.IPv4Address):
        return str(address), str(address)
    network = ipaddress.IPv6Network((int(address) >> _IPV6_HOST << _IPV6_HOST, 128 - _IPV6_HOST))
    return str(address), str(network)


def parse_peer(peer: str) -> tuple[str, int] | None:
    """Parses gRPC's form of a client's address, ``ipv4:1.2.3.4:5`` or ``ipv6:%5B::1%5D:5``.

    Returns:
        The address in its shortest form, and the port; None for any other form.
    """
    scheme, _, rest = urllib.parse.unquote(peer).partition(":")
    host, _, port = rest.rpartition(":")
    if scheme not in {"ipv4", "ipv6"}:
        return None
    return normalize_host(host.strip("[]"))[0], int(port)


@functools.lru_cache(4096)
def client_network(peer: str) -> str:
    """Returns the address or network whose use is counted together.

    Args:
        peer: gRPC's form of a client's address. A form that `parse_peer` does not know is returned unchanged.
    """
    found = parse_peer(peer)
    return peer if found is None else normalize_host(found[0])[1]
