"""One address for several processes: each listens there, and the kernel deals the connections out."""

import contextlib
import socket
from collections.abc import Iterator

from thetaprime.server.address import split_address
from thetaprime.server.errors import StartupError


@contextlib.contextmanager
def reserved(address: str) -> Iterator[str]:
    """Holds an address that nobody else has, for processes that set SO_REUSEPORT, without listening there.

    Held for as long as the context lasts, it cannot be lost to others while no process listens.

    Args:
        address: ``host:port``; port 0 takes a free one.

    Yields:
        ``host:port`` with the port that it is.

    Raises:
        StartupError: the address does not read so, is taken, or cannot be shared on this system.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise StartupError("workers: this system does not let several processes listen on one port; expected 1")
    try:
        host, port = split_address(address)
    except ValueError as error:
        raise StartupError(f"address {address}: several workers need host:port") from error
    if not host:
        raise StartupError(f"address {address}: several workers need host:port")
    with contextlib.ExitStack() as held:
        try:
            for family, place in _places(host):
                port = _take(held.enter_context(socket.socket(family, socket.SOCK_STREAM)), family, place, port)
        except OSError as error:
            raise StartupError(f"address {address}: cannot listen there ({error})") from error
        yield f"{address.rpartition(':')[0]}:{port}"


def _places(host: str) -> list[tuple[socket.AddressFamily, str]]:
    """The addresses that a host name stands for, once each."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, str(place[0])) for family, _, _, _, place in found))


def _take(held: socket.socket, family: socket.AddressFamily, place: str, port: int) -> int:
    if family == socket.AF_INET6:
        # As gRPC does: the address that is none in particular is for IPv4 too.
        held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(place != "::"))
    # Taken for itself alone first: so nobody else is there, not even one who would share.
    held.bind((place, port))
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return int(held.getsockname()[1])
