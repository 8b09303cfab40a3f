"""Killed at any point of any call, the server keeps what it acknowledged, and every client ends where it would have."""

import ast
import random
import time
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

import thetaprime.client as tp
import thetaprime.server
from tests.support.artifacts import write_point_artifact
from tests.support.faults.victim import Victim
from tests.support.faults.workload import META_POLICY, Customers, Outcome, adapt_once, patiently
from tests.support.point_navigation import play
from thetaprime.server import ServerConfig, failpoints, running_server
from thetaprime.server.store import Store, tables

REACHED_WITHIN = 60.0
EXPIRED_AFTER = 4.0


def _replay(zoo: Path, store: Path, seeds: list[int]) -> list[Outcome]:
    """The same customers with a server that nobody disturbs."""
    config = ServerConfig(address="127.0.0.1:0", store=store, zoo=(zoo,))
    with running_server(config) as address, tp.Client(address) as client:
        return [adapt_once(client, seed) for seed in seeds]


def test_the_list_of_failpoints_is_what_the_code_reaches() -> None:
    reached = set()
    for file in Path(next(iter(thetaprime.server.__path__))).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "failpoints.reach":
                assert isinstance(node.args[0], ast.Constant)
                reached.add(node.args[0].value)
    assert reached == failpoints.POINTS


@pytest.mark.parametrize("text", ["nowhere=kill", "blob.synced=explode", "blob.synced=kill@0", "blob.synced"])
def test_a_failpoint_that_does_not_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=failpoints.VARIABLE):
        failpoints.arm(text)
    assert failpoints.reach("blob.synced") is None  # type: ignore[func-returns-value]  # still not armed


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [0])
def test_killed_at_every_failpoint_nothing_is_lost(seed: int, tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    write_point_artifact(zoo)
    rng = random.Random(seed)
    points = sorted(failpoints.POINTS)
    rng.shuffle(points)
    # Uploads lie in rows and policies in files: both ways die.
    with (
        Victim(tmp_path, zoo, "--row-bytes", "2048") as victim,
        Customers(victim.address, 3, expiring=True) as customers,
    ):
        victim.start()
        for point in points:
            victim.kill()
            if point.startswith("sweep."):
                victim.start()
                _leave_expired(victim.address)
                victim.kill()
            # A start and the sweep after it come once in the life of a process.
            visit = 1 if point.startswith(("start.", "sweep.")) else rng.randint(1, 3)
            if victim.start(f"{point}=kill@{visit}"):
                assert victim.wait_killed(REACHED_WITHIN), f"{point} was not reached {visit} times"
            assert not customers.failures, customers.failures
        victim.start()
        customers.finish()
        assert victim.stop() == 0
    assert not customers.failures, customers.failures
    outcomes = sorted(customers.outcomes, key=lambda outcome: outcome.seed)
    assert not [line for outcome in outcomes for line in outcome.lost]
    assert len(outcomes) >= 3
    assert outcomes == _replay(zoo, tmp_path / "undisturbed", [outcome.seed for outcome in outcomes])
    _check_whole(victim.store)


def _leave_expired(address: str) -> None:
    """Leaves a session with an upload, and one with a policy too, for the sweep at the next start to find."""
    with tp.Client(address) as client:
        for adapts in (True, False):
            session = patiently(lambda: client.create_session(META_POLICY, ttl=EXPIRED_AFTER))
            # No other upload has these bytes: a blob that another session needs is not swept.
            session.upload(play(session.policy, np.random.default_rng(time.time_ns())))
            if adapts:
                session.adapt()
    time.sleep(EXPIRED_AFTER)


def _check_whole(folder: Path) -> None:
    """Every row's blob is there and is what it says; nothing that expired is left after a sweep."""
    store = Store(folder)
    store.sweep()
    with store.reading() as connection:
        for column in tables.BLOB_COLUMNS:
            for digest in connection.scalars(sa.select(column)):
                store.read(digest)
        rounds = connection.execute(sa.select(tables.sessions.c.session_id, tables.sessions.c.round)).all()
        taken = connection.execute(sa.select(tables.policies.c.session_id, tables.policies.c.round)).all()
    store.close()
    # A session's round and θ of that round were written together or not at all.
    assert sorted(taken) == sorted((session, k) for session, reached in rounds for k in range(1, reached + 1))
