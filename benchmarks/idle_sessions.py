"""Measures the memory of an idle session."""

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
    """Measures the growth of a server's resident memory over 10,000 open sessions, of which 100 took a round.

    Earlier calls of each kind have created the server's threads and pools.
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
        # The server drops its cached entries after a minute.
        time.sleep(_SETTLE_SECONDS)
        growth = (resident_bytes(server.pid) - before) / _SESSIONS / 1024
    name = "10,000 idle sessions: memory of a server for each / 1 KiB"
    return [Row(name, growth, 1.0, "KiB", growth, _BUDGET_KIB, growth <= _BUDGET_KIB, machine())]
