"""Refuses new connections of some addresses in the kernel.

gRPC's core accepts connections without asking. A packet filter on its listening socket (SO_ATTACH_FILTER, classic BPF)
drops the first packet of a connection instead: a blocked peer costs the process nothing, however often it tries. The
filter needs no privilege. Connections that are open already are not affected.
"""

import contextlib
import ctypes
import ipaddress
import socket
import struct
import time
from collections.abc import Callable, Iterable
from typing import Final

# <asm-generic/socket.h>; Python has no names for these.
_SO_ATTACH_FILTER: Final = 26
_SO_DETACH_FILTER: Final = 27
# The most that a kernel with the smallest net.core.optmem_max takes is about twice as long.
_MOST_ADDRESSES: Final = 200

# <linux/filter.h>: loads from the headers of the network layer, wherever the packet begins.
_NETWORK_HEADER: Final = 0xFFF00000
_LOAD_BYTE, _LOAD_WORD, _SHIFT_RIGHT, _JUMP, _JUMP_IF_EQUAL, _RETURN = 0x30, 0x20, 0x74, 0x05, 0x15, 0x06
_DROP, _ACCEPT = 0, 0xFFFFFFFF
_IPV4_SOURCE, _IPV6_SOURCE = 12, 8

_Instruction = tuple[int, int, int, int]


class BlockedAddresses:
    """The addresses whose new connections are refused, each for a time.

    Not thread-safe.

    Args:
        seconds: the time; 0 blocks nothing.
        clock: monotonic seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._now = clock
        # The end of each block, in order of time.
        self._ends: dict[str, float] = {}

    def __contains__(self, network: str) -> bool:
        return network in self._ends

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, network: str) -> bool:
        """Blocks an IPv4 address or IPv6 network from now on; returns whether it was not blocked.

        Args:
            network: as from `thetaprime.server.address.client_network`. Other names are ignored.
        """
        if not self._seconds or network in self._ends or not _is_network(network):
            return False
        if len(self._ends) >= _MOST_ADDRESSES:
            del self._ends[next(iter(self._ends))]
        self._ends[network] = self._now() + self._seconds
        return True

    def expire(self) -> bool:
        """Forgets the blocks whose time is over; returns whether there were any."""
        over = [network for network, end in self._ends.items() if end <= self._now()]
        for network in over:
            del self._ends[network]
        return bool(over)

    def apply(self, listening: socket.socket) -> None:
        """Makes a listening socket refuse the addresses, and no others. Connections that are open keep theirs.

        Raises:
            OSError: this kernel takes no filter.
        """
        if not self._ends:
            # Without a filter there is none to detach.
            with contextlib.suppress(FileNotFoundError):
                listening.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
            return
        program = _compile(self._ends)
        code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in program))
        # struct sock_fprog: the number of instructions, and where they are.
        listening.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(code))
        )


def _is_network(name: str) -> bool:
    try:
        ipaddress.ip_network(name)
    except ValueError:
        return False
    return True


def _compile(networks: Iterable[str]) -> list[_Instruction]:
    """Returns a program that drops packets from the networks."""
    ipv4: list[_Instruction] = []
    ipv6: list[_Instruction] = []
    for network in map(ipaddress.ip_network, networks):
        first = int(network.network_address)
        if network.version == 4:
            ipv4 += [(_JUMP_IF_EQUAL, 0, 1, first), (_RETURN, 0, 0, _DROP)]
        else:
            # The upper 64 bits of the source.
            ipv6 += [
                (_LOAD_WORD, 0, 0, _NETWORK_HEADER + _IPV6_SOURCE),
                (_JUMP_IF_EQUAL, 0, 3, first >> 96),
                (_LOAD_WORD, 0, 0, _NETWORK_HEADER + _IPV6_SOURCE + 4),
                (_JUMP_IF_EQUAL, 0, 1, first >> 64 & 0xFFFFFFFF),
                (_RETURN, 0, 0, _DROP),
            ]
    accept: _Instruction = (_RETURN, 0, 0, _ACCEPT)
    ipv4 = [(_LOAD_WORD, 0, 0, _NETWORK_HEADER + _IPV4_SOURCE), *ipv4, accept]
    # The version of IP is in the first four bits.
    version = [(_LOAD_BYTE, 0, 0, _NETWORK_HEADER), (_SHIFT_RIGHT, 0, 0, 4), (_JUMP_IF_EQUAL, 1, 0, 4)]
    return [*version, (_JUMP, 0, 0, len(ipv4)), *ipv4, *ipv6, accept]
