"""Idle HTTP/2 connections, and the descriptors and memory of a server process."""

import contextlib
import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

# The preface of HTTP/2 and an empty SETTINGS frame: after these the server keeps the connection.
_HELLO: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
_PATIENCE: Final = 60.0


@contextlib.contextmanager
def held_open(address: str, count: int) -> Iterator[None]:
    """Holds so many connections open for the duration of the context."""
    # This process needs a descriptor for each connection too.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    host, _, port = address.rpartition(":")
    with contextlib.ExitStack() as opened:
        for _ in range(count):
            connection = opened.enter_context(socket.create_connection((host, int(port)), timeout=_PATIENCE))
            connection.sendall(_HELLO)
        yield


def descriptors(pid: int) -> int:
    """Returns the number of open descriptors of a process."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def wait_for_descriptors(pid: int, *, at_least: int = 0, at_most: int = 1 << 30) -> None:
    """Waits until the number of open descriptors of a process lies within bounds."""
    end = time.monotonic() + _PATIENCE
    while not at_least <= (count := descriptors(pid)) <= at_most:
        assert time.monotonic() < end, f"{count} descriptors are open; expected {at_least} to {at_most}"
        time.sleep(0.05)


def resident_kib(pid: int) -> int:
    """Returns the resident memory of a process, in KiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024
