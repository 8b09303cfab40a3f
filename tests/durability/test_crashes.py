"""A server killed at any point of any call keeps what it acknowledged, and its clients end with the same policies."""

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
from tests.support.faults.customers import Customers, Outcome, adapt_once, patiently
from tests.support.point_navigation import NAME, play
from tests.support.server.process import ServerProcess
from thetaprime.server import ServerConfig, failpoints, running_server
from thetaprime.server.store import Store, tables

REACHED_WITHIN = 60.0


def _replay(zoo: Path, store: Path, seeds: list[int]) -> list[Outcome]:
    """Runs the same customers with a server that is not killed."""
    config = ServerConfig(address="127.0.0.1:0", store=store, zoo=(zoo,))
    with running_server(config) as address, tp.Client(address) as client:
        return [adapt_once(client, seed) for seed in seeds]


def test_the_list_of_failpoints_is_complete() -> None:
    reached = set()
    for file in Path(next(iter(thetaprime.server.__path__))).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "failpoints.reach":
                assert isinstance(node.args[0], ast.Constant)
                reached.add(node.args[0].value)
    assert reached == failpoints.POINTS


@pytest.mark.parametrize("text", ["nowhere=kill", "blob.synced=explode", "blob.synced=kill@0", "blob.synced"])
def test_an_invalid_failpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=failpoints.VARIABLE):
        failpoints.arm(text)
    assert failpoints.reach("blob.synced") is None  # type: ignore[func-returns-value]  # not armed


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [0])
def test_a_server_killed_at_every_failpoint_loses_nothing(seed: int, tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    write_point_artifact(zoo)
    rng = random.Random(seed)
    points = sorted(failpoints.POINTS - {"start.schema"})
    rng.shuffle(points)
    # Uploads are stored in rows and policies in files, so the test kills writes of both.
    with (
        ServerProcess(tmp_path, zoo, "--row-bytes", "2048") as server,
        Customers(server.address, 3, expiring=True) as customers,
    ):
        # Only the first start writes the schema.
        assert not server.start_armed("start.schema=kill@1")
        server.start()
        expiring = {point: _leave_sessions(server.address) for point in points if point.startswith("sweep.")}
        for point in points:
            server.kill()
            if point in expiring:
                _expire(server.store, expiring[point])
            # A process starts once, and sweeps once after its start.
            visit = 1 if point.startswith(("start.", "sweep.")) else rng.randint(1, 3)
            if server.start_armed(f"{point}=kill@{visit}"):
                assert server.wait_killed(REACHED_WITHIN), f"{point} was not reached {visit} times"
            assert not customers.failures, customers.failures
        server.start()
        customers.finish()
        assert server.stop() == 0
    assert not customers.failures, customers.failures
    outcomes = sorted(customers.outcomes, key=lambda outcome: outcome.seed)
    assert not [line for outcome in outcomes for line in outcome.lost]
    assert len(outcomes) >= 3
    assert outcomes == _replay(zoo, tmp_path / "undisturbed", [outcome.seed for outcome in outcomes])
    _check_store(server.store)


def _leave_sessions(address: str) -> list[str]:
    """Creates a session with an upload, and one with a policy too; returns their ids."""
    created = []
    with tp.Client(address) as client:
        for adapts in (True, False):
            session = patiently(lambda: client.create_session(NAME))
            created.append(session.id)
            # Bytes of no other upload: the sweep keeps a blob that another session names.
            session.upload(play(session.policy, np.random.default_rng(time.time_ns())))
            if adapts:
                session.adapt()
    return created


def _expire(folder: Path, session_ids: list[str]) -> None:
    """Sets the expiry of sessions to the past, so that the sweep at the next start deletes them."""
    store = Store(folder)
    with store.writing() as connection:
        found = tables.sessions.c.session_id.in_(session_ids)
        changed = connection.execute(tables.sessions.update().where(found).values(expire_time=0))
    store.close()
    assert changed.rowcount == len(session_ids)


def _check_store(folder: Path) -> None:
    """Asserts that each blob that a row names is stored, and that rounds and policies agree."""
    store = Store(folder)
    store.sweep()
    with store.reading() as connection:
        for column in tables.BLOB_COLUMNS:
            for digest in connection.scalars(sa.select(column)):
                store.read(digest)
        rounds = connection.execute(sa.select(tables.sessions.c.session_id, tables.sessions.c.round)).all()
        policies = connection.execute(sa.select(tables.policies.c.session_id, tables.policies.c.round)).all()
    store.close()
    # A session's round and θ of that round were written together or not at all.
    assert sorted(policies) == sorted((session, k) for session, reached in rounds for k in range(1, reached + 1))
