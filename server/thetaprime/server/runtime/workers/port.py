"""Reserves one port for several processes; the kernel distributes the connections among those that listen on it."""

import contextlib
import errno
import socket
from collections.abc import Iterator

from thetaprime.server.address import split_address
from thetaprime.server.errors import StartupError


@contextlib.contextmanager
def reserve_port(address: str) -> Iterator[str]:
    """Binds a free address, without listening, for processes that listen there with SO_REUSEPORT.

    While it is bound, no other program can take the address, even when no worker listens.

    Args:
        address: ``host:port``; port 0 takes any free port.

    Yields:
        ``host:port`` with the actual port.

    Raises:
        StartupError: the address is invalid or in use, or this system cannot share a port.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise StartupError("workers: this system does not let several processes listen on one port; expected 1")
    try:
        host, port = split_address(address)
    except ValueError as error:
        raise StartupError(f"address {address}: several workers need host:port") from error
    if not host:
        raise StartupError(f"address {address}: several workers need host:port")
    with contextlib.ExitStack() as sockets:
        try:
            for family, ip in _resolve(host):
                port = _bind(sockets.enter_context(socket.socket(family, socket.SOCK_STREAM)), family, ip, port)
        except OSError as error:
            raise StartupError(f"address {address}: cannot listen there ({error})") from error
        yield f"{address.rpartition(':')[0]}:{port}"


def _resolve(host: str) -> list[tuple[socket.AddressFamily, str]]:
    """Returns the distinct IP addresses of a host name."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))


def _bind(unbound: socket.socket, family: socket.AddressFamily, ip: str, port: int) -> int:
    if family == socket.AF_INET6:
        # As gRPC does: the unspecified address also accepts IPv4.
        unbound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(ip != "::"))
    # SO_REUSEPORT is set after binding: the bind fails if any other program has the port, also one that shares it.
    try:
        unbound.bind((ip, port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        # Closed connections of an earlier server occupy the port for a minute. With SO_REUSEADDR they do not count, and
        # a socket that listens does. Without it again, this socket excludes all others that do not share the port.
        unbound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        unbound.bind((ip, port))
        unbound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    unbound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return int(unbound.getsockname()[1])
