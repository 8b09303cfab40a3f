"""Two servers on one PostgreSQL: one is killed and the database crashes within a session, and θ′ is the same."""

import contextlib
import itertools
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.artifacts import write_point_artifact
from tests.support.point_navigation import NAME, OnnxPolicy, play
from tests.support.server.postgres import Postgres
from tests.support.server.process import ServerProcess
from thetaprime import client, wire
from thetaprime.server.store import Store

pytestmark = pytest.mark.slow
ROUNDS = 4


def adapt(address: str, disturb: Callable[[int], object]) -> client.Adaptation:
    """Adapts through the client; `disturb` is called before the episodes of each round, with its number."""
    rounds = itertools.count()

    def collector(policy: OnnxPolicy, count: int) -> list[wire.Trajectory]:
        number = next(rounds)
        disturb(number)
        return play(policy, np.random.default_rng(number), count)

    with client.Client(address, timeout=60) as connected:
        return connected.adapt(NAME, collector, ROUNDS, trajectories=8, progress=False)


def test_a_killed_server_and_a_crashed_database_change_no_policy(tmp_path: Path) -> None:
    write_point_artifact(tmp_path / "zoo")
    for name in ("alone", "first", "second"):
        (tmp_path / name).mkdir()
    with ServerProcess(tmp_path / "alone", tmp_path / "zoo") as alone:
        undisturbed = adapt(alone.start(), lambda _: None)
    with contextlib.closing(Postgres()) as postgres:
        url = postgres.database()
        Store(url, upgrades=True).close()
        with (
            ServerProcess(tmp_path / "first", tmp_path / "zoo", "--store", url) as first,
            ServerProcess(tmp_path / "second", tmp_path / "zoo", "--store", url) as second,
        ):
            first.start()
            second.start()

            def disturb(number: int) -> None:
                if number == 1:
                    first.kill()
                elif number == 2:
                    postgres.stop(signal.SIGQUIT)
                    # The client's next call finds no database.
                    threading.Timer(1.0, postgres.start).start()

            disturbed = adapt(f"ipv4:{first.address},{second.address}", disturb)
            assert not first.runs()
    assert [each.mean_return for each in disturbed.history] == [each.mean_return for each in undisturbed.history]
    assert disturbed.onnx == undisturbed.onnx
