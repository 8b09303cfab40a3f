"""From the command to a server that takes calls, with every meta-policy that ships."""

import os
import time
from statistics import median

from benchmarks.measure import Row, machine
from benchmarks.process import cpu_seconds
from thetaprime.cli._server_process import server_process

_STARTS = 7


def rows() -> list[Row]:
    """Seconds, each beside one second; processor time does not count what others do on the machine meanwhile."""
    walls, cpus = [], []
    # As where it is installed: compiled once, not at each start, whatever this shell says.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # The first start reads the libraries from the disk.
    for _ in range(_STARTS + 1):
        started = time.perf_counter()
        with server_process() as server:
            server.address()
            walls.append(time.perf_counter() - started)
            cpus.append(cpu_seconds(server.pid))
    found = []
    for name, seconds in (("start to serving, with the whole zoo", walls), ("its processor time", cpus)):
        one = median(seconds[1:])
        found.append(Row(f"{name} / one second", one, 1.0, "s", one, 2.0, one <= 2.0, machine()))
    return found
