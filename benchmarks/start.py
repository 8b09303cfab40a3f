"""Measures the start of a server with the shipped meta-policies, from the command until it accepts calls."""

import os
import time
from statistics import median

from benchmarks.measure import Row, machine
from benchmarks.process import cpu_seconds
from thetaprime.cli._server_process import server_process

_STARTS = 7


def rows() -> list[Row]:
    """Measures wall time and processor time, each relative to one second."""
    walls, cpus = [], []
    # An installed package is compiled once, not at each start.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # The first start reads the libraries from the disk, and is not counted.
    for _ in range(_STARTS + 1):
        started = time.perf_counter()
        with server_process() as server:
            server.address()
            walls.append(time.perf_counter() - started)
            cpus.append(cpu_seconds(server.pid))
    found = []
    for name, seconds in (("start to serving, with the whole zoo", walls), ("start to serving, processor time", cpus)):
        one = median(seconds[1:])
        found.append(Row(f"{name} / one second", one, 1.0, "s", one, 2.0, one <= 2.0, machine()))
    return found
