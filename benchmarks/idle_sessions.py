"""What a session costs a server while nobody uses it."""

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.measure import Row, machine
from benchmarks.policies import artifact, trajectories
from benchmarks.process import resident_bytes
from thetaprime.cli._server_process import server_process
from thetaprime.client import Client

_BEFORE, _SESSIONS, _ROUNDS, _THREADS = 1000, 10_000, 100, 8
_BUDGET_KIB = 5.0
_SETTLE_SECONDS = 90.0


def rows() -> list[Row]:
    """Growth of a server's resident memory over 10,000 sessions that stay open, a hundred of which took a round.

    The server has had as many calls of each kind before as make its threads and pools.
    """
    root = Path(tempfile.mkdtemp(prefix="thetaprime-bench-"))
    collected = trajectories(artifact(root), 0)
    limit = str(_BEFORE + _SESSIONS)
    with (
        server_process("--zoo", str(root), "--max-sessions", limit) as server,
        Client(server.address()) as client,
        ThreadPoolExecutor(_THREADS) as threads,
    ):

        def open_one(number: int) -> None:
            session = client.create_session("benchmark")
            if number < _ROUNDS:
                session.upload(collected)
                session.adapt()

        list(threads.map(open_one, range(_BEFORE)))
        time.sleep(_SETTLE_SECONDS)
        before = resident_bytes(server.pid)
        list(threads.map(open_one, range(_SESSIONS)))
        # What the last calls left in memory for the next ones of their sessions is given up after a minute.
        time.sleep(_SETTLE_SECONDS)
        growth = (resident_bytes(server.pid) - before) / _SESSIONS / 1024
    name = "10,000 idle sessions: memory of a server for each / 1 KiB"
    return [Row(name, growth, 1.0, "KiB", growth, _BUDGET_KIB, growth <= _BUDGET_KIB, machine())]
