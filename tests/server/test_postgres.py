"""Servers that share a PostgreSQL: the contract holds on it, over all of them, and when it goes away."""

import contextlib
import contextvars
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import psycopg
import pytest

from benchmarks.links import CountingLink, PostgresMessages
from tests.server.test_exactly_once import (  # noqa: F401  # their fixture `service` is the one below
    test_a_repeated_create_session_returns_the_same_session,
    test_a_repeated_upload_counts_once,
    test_concurrent_create_sessions_create_one_session,
    test_concurrent_equal_uploads_count_once,
)
from tests.server.test_health import NOT_SERVING, SERVING, wait_for
from tests.server.test_store import Clock, record
from tests.server.test_usage import add_sessions, add_uploads, session_record, total
from tests.support.server.postgres import Postgres
from tests.support.server.supervised import until
from thetaprime import wire
from thetaprime.server import StartupError
from thetaprime.server.errors import CorruptDataError, StoreFailedError, TransientError
from thetaprime.server.store import Store, SweptSession, tables
from thetaprime.server.store.check import check, repair
from thetaprime.server.store.retries import set_call_deadline

if TYPE_CHECKING:
    from tests.support.server.service import Service, Start

pytestmark = pytest.mark.slow
Collect = Callable[..., list[wire.Trajectory]]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with contextlib.closing(Postgres()) as server:
        yield server


@pytest.fixture
def url(postgres: Postgres) -> str:
    """Of a database with the tables."""
    found = postgres.database()
    Store(found, upgrades=True).close()
    return found


@pytest.fixture(scope="module")
def service(postgres: Postgres, start: "Start") -> Iterator["Service"]:
    found = postgres.database()
    Store(found, upgrades=True).close()
    with start(store=found) as running:
        yield running


def test_a_session_lives_on_two_servers(url: str, start: "Start", collect: Collect) -> None:
    with start(store=url) as first, start(store=url) as second:
        created = first.create(request_id="r")
        assert second.create(request_id="r") == created
        session_id = created.session.session_id
        second.upload(session_id, collect(created.policy), upload_id="u")
        first.upload(session_id, collect(created.policy, seed=1), upload_id="v")
        batch = second.get(session_id).session.batch
        assert batch.uploads == 2
        with ThreadPoolExecutor(4) as callers:
            each = [first, second, first, second]
            adapted = list(callers.map(lambda on: on.adapt(session_id, 0, batch.sha256), each))
        assert len({one.policy.policy_id for one in adapted}) == 1
        assert first.get(session_id).session.round == second.get(session_id).session.round == 1


def test_a_step_is_the_same_on_either_database(url: str, start: "Start", collect: Collect) -> None:
    policies = []
    for fields in ({}, {"store": url}):
        with start(**fields) as running:
            created = running.create()
            acknowledged = running.upload(created.session.session_id, collect(created.policy), upload_id="u")
            policies.append(running.adapt(created.session.session_id, 0, acknowledged.batch.sha256).policy)
    assert policies[0].policy_id == policies[1].policy_id
    assert policies[0].onnx == policies[1].onnx


def test_racing_creates_on_two_servers_create_one_session(url: str, start: "Start") -> None:
    with start(store=url) as first, start(store=url) as second, ThreadPoolExecutor(8) as callers:
        created = list(callers.map(lambda index: (first, second)[index % 2].create(request_id="r"), range(8)))
    assert len({each.session.session_id for each in created}) == 1


def test_a_blob_that_one_tenant_releases_stays_for_another_that_names_it(url: str) -> None:
    payload = b"shared"
    digest = wire.sha256_hex(payload)
    with contextlib.closing(Store(url, now=lambda: 0)) as store:
        add_sessions(store, session_record("old", tenant="old"), session_record("new", tenant="new"))
        add_uploads(store, ("old", "u", payload))
        gone = [SweptSession("deleted", "old", "old", 0, "p")]

        def delete_old() -> None:
            with store.writing("old") as connection:
                store.delete_sessions(connection, gone)

        with ThreadPoolExecutor(1) as other, store.storing({digest: payload}, "new") as connection:
            store.keep(connection, {digest: payload})
            connection.execute(tables.uploads.insert(), upload_row("new", digest))
            deleting = other.submit(delete_old)
            until(lambda: deleting.done() or waits_for_a_lock(url) or None)
            assert not deleting.done()
            connection.commit()
            deleting.result()
        assert store.read(digest) == payload
        with store.writing("new") as connection:
            store.delete_sessions(connection, [SweptSession("deleted", "new", "new", 0, "p")])
        with pytest.raises(CorruptDataError):
            store.read(digest)


def upload_row(session_id: str, digest: str) -> dict[str, object]:
    return {
        "session_id": session_id,
        "upload_id": "u",
        "round": 0,
        "payload_sha256": digest,
        "trajectories": 1,
        "steps": 1,
        "acknowledgement": b"",
    }


def waits_for_a_lock(url: str) -> bool:
    with psycopg.connect(url) as connection:
        return bool(connection.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall())


def test_counts_are_those_of_sqlite(url: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    totals = []
    for place in (url, tmp_path_factory.mktemp("store")):
        with contextlib.closing(Store(place, now=lambda: 0)) as store:
            add_sessions(store, session_record("s", request_id="é" * 10))
            add_uploads(store, ("s", "u", b"payload"), ("s", "ü", bytes(5000)))
            totals.append(total(store))
    assert totals[0] == totals[1]


def test_what_is_wrong_is_found_and_mended(url: str) -> None:
    with contextlib.closing(Store(url, now=lambda: 0)) as store:
        add_sessions(store, session_record("s"))
        add_uploads(store, ("s", "u", b"payload"))
        with psycopg.connect(url) as other:
            other.execute("INSERT INTO blobs VALUES ('ab', 'x')")
            other.execute("UPDATE usage SET bytes = 1")
        assert {each.kind for each in check(store)} >= {"unnamed_rows", "wrong_tenant_counts"}
        repair(store)
        assert not check(store)


def test_a_server_does_not_change_the_tables(postgres: Postgres) -> None:
    empty = postgres.database()
    with pytest.raises(StartupError, match="thetaprime store upgrade"):
        Store(empty)
    with psycopg.connect(empty) as other:
        assert not other.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    Store(empty, upgrades=True).close()
    with psycopg.connect(empty) as other:
        other.execute("ALTER TABLE uploads DROP COLUMN counted")
    with pytest.raises(StartupError, match="earlier release"):
        Store(empty)
    Store(empty, upgrades=True).close()
    Store(empty).close()
    with psycopg.connect(empty) as other:
        other.execute("UPDATE schema_info SET version = 99")
    with pytest.raises(StartupError, match=r"99.*upgrade thetaprime"):
        Store(empty)


def test_tables_of_another_application_are_left_alone(postgres: Postgres) -> None:
    taken = postgres.database()
    with psycopg.connect(taken) as other:
        other.execute("CREATE TABLE sessions (id integer)")
    with pytest.raises(StartupError, match=r"another application \(sessions\)"):
        Store(taken, upgrades=True)


def test_a_database_that_loses_commits_is_refused(postgres: Postgres) -> None:
    careless = postgres.database()
    Store(careless, upgrades=True).close()
    with psycopg.connect(careless, autocommit=True) as other:
        other.execute(f"ALTER DATABASE {careless.rpartition('/')[2]} SET synchronous_commit = off".encode())
    with pytest.raises(StartupError, match="synchronous_commit is off"):
        Store(careless)


def test_a_password_is_not_shown(postgres: Postgres) -> None:
    place = f"postgresql://nobody:very-secret@127.0.0.1:{postgres.port}/missing"
    with pytest.raises(StartupError, match="nobody") as refused:
        Store(place)
    assert "very-secret" not in str(refused.value)


def test_a_clock_that_differs_is_not_serving(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(Store(url)) as store:
        store.database.check_clock()
        now = time.time()
        monkeypatch.setattr("thetaprime.server.store.postgres.time.time", lambda: now + 3600)
        with pytest.raises(StoreFailedError, match=r"\+3600 s"):
            store.database.check_clock()


def test_text_that_postgresql_cannot_store_is_refused(service: "Service") -> None:
    with pytest.raises(grpc.RpcError) as refused:
        service.create(request_id="a\0b")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "NUL" in str(refused.value.details())


def test_a_call_survives_a_database_that_restarts(start: "Start", collect: Collect) -> None:
    with contextlib.closing(Postgres()) as postgres:
        url = postgres.database()
        Store(url, upgrades=True).close()
        with start(store=url) as service:
            created = service.create()
            session_id = created.session.session_id
            service.upload(session_id, collect(created.policy), upload_id="u")
            postgres.stop(signal.SIGQUIT)
            with pytest.raises(grpc.RpcError) as refused:
                service.get(session_id)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            wait_for(service.channel, NOT_SERVING)
            postgres.start()
            wait_for(service.channel, SERVING)
            assert service.get(session_id).session.batch.uploads == 1
            batch = service.upload(session_id, collect(created.policy, seed=1), upload_id="v").batch
            assert service.adapt(session_id, 0, batch.sha256).policy.onnx


def test_one_connection_is_enough(url: str, start: "Start", collect: Collect) -> None:
    """A call that took two connections would wait for itself."""
    with start(store=url, store_connections=1) as first, start(store=url, store_connections=1) as second:
        created = first.create()
        session_id, policy = created.session.session_id, created.policy
        for index in range(2):
            first.upload(session_id, collect(policy, seed=index), round_index=index, upload_id=f"a{index}")
            second.upload(session_id, collect(policy, seed=index + 9), round_index=index, upload_id=f"b{index}")
            batch = second.get(session_id).session.batch
            with ThreadPoolExecutor(4) as callers:
                each = [first, second, first, second]
                adapted = list(callers.map(lambda on: on.adapt(session_id, index, batch.sha256), each))  # noqa: B023
            policy = adapted[0].policy
            assert {one.policy.onnx for one in adapted} == {policy.onnx}
        assert first.adapt(session_id, 0, batch_of(second, session_id)).report.round == 0


def batch_of(service: "Service", session_id: str) -> str:
    """Digest of the batch of the first step."""
    return service.get(session_id).reports[0].batch_sha256


POINTS = ("create.row", "create.committed", "upload.verified", "upload.row", "upload.committed", "adapt.begun",
          "adapt.blobs", "adapt.rows", "adapt.committed")  # fmt: skip


def test_lost_connections_reach_no_client(
    url: str, start: "Start", collect: Collect, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = set(POINTS)

    def kill_once(point: str) -> None:
        if point in left:
            left.remove(point)
            with psycopg.connect(url, autocommit=True) as other:
                other.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                    "WHERE application_name = 'thetaprime' AND datname = current_database()"
                )

    with start(store=url) as service:
        monkeypatch.setattr("thetaprime.server.failpoints.reach", kill_once)
        created = service.create(request_id="r")
        session_id = created.session.session_id
        batch = service.upload(session_id, collect(created.policy), upload_id="u").batch
        adapted = service.adapt(session_id, 0, batch.sha256)
        assert not left
        found = service.get(session_id)
        assert (found.session.round, len(found.reports)) == (1, 1)
        assert service.adapt(session_id, 0, batch.sha256) == adapted
        assert service.create(request_id="r").session.session_id == session_id
    with start() as undisturbed:
        created = undisturbed.create()
        batch = undisturbed.upload(created.session.session_id, collect(created.policy), upload_id="u").batch
        assert undisturbed.adapt(created.session.session_id, 0, batch.sha256).policy == adapted.policy


@pytest.mark.parametrize("code", ["40001", "40P01"])
def test_serialization_failures_reach_no_client(url: str, code: str, start: "Start", collect: Collect) -> None:
    with psycopg.connect(url) as other:
        # Numbers of a sequence are not rolled back.
        other.execute("CREATE SEQUENCE failures")
        for table in ("sessions", "uploads", "policies"):
            body = f"IF nextval('failures') % 2 = 1 THEN RAISE EXCEPTION USING ERRCODE = '{code}'; END IF; RETURN NEW;"
            other.execute(
                f"CREATE FUNCTION fail_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$".encode()
            )
            other.execute(
                f"CREATE TRIGGER f BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION fail_{table}()".encode()
            )
    with start(store=url) as service:
        created = service.create()
        batch = service.upload(created.session.session_id, collect(created.policy), upload_id="u").batch
        assert service.adapt(created.session.session_id, 0, batch.sha256).session.round == 1
    with psycopg.connect(url) as other:
        assert other.execute("SELECT last_value FROM failures").fetchone() == (6,)


def test_a_call_is_not_repeated_beyond_its_deadline(url: str) -> None:
    attempts: list[float] = []

    def fail() -> None:
        attempts.append(time.monotonic())
        raise TransientError("away", retry_after=0.5)

    with contextlib.closing(Store(url)) as store:
        context = contextvars.copy_context()
        context.run(set_call_deadline, 0.2)
        with pytest.raises(TransientError):
            context.run(store.retries.run, fail)
        assert len(attempts) > 1
        assert attempts[-1] - attempts[0] < 0.2
        # The database is away: other calls do not wait for it as well.
        attempts.clear()
        with pytest.raises(TransientError):
            store.retries.run(fail)
        assert len(attempts) == 1
        assert store.retries.run(lambda: 1) == 1
        with pytest.raises(TransientError):
            store.retries.run(fail)
        assert len(attempts) > 2


def test_a_round_takes_few_statements(postgres: Postgres, url: str, start: "Start", collect: Collect) -> None:
    with CountingLink(postgres.port, PostgresMessages) as link:
        through = url.replace(f":{postgres.port}/", f":{link.port}/")
        with start(store=through, probe_seconds=86_400.0) as service:
            created = service.create()
            session_id, policy = created.session.session_id, created.policy
            # Wait for the sweep of the start.
            until(lambda: (service.get(session_id) and is_idle(url)) or None)
            for index in range(3):
                before = link.traffic()
                batch = service.upload(session_id, collect(policy), round_index=index, upload_id=f"u{index}").batch
                uploaded = link.traffic()
                policy = service.adapt(session_id, index, batch.sha256).policy
                adapted = link.traffic()
                # With BEGIN and COMMIT of each of the two transactions.
                assert uploaded.since(before).counts == {"statements": 6, "round trips": 5}
                assert adapted.since(uploaded).counts == {"statements": 5, "round trips": 4}


def is_idle(url: str) -> bool:
    with psycopg.connect(url) as connection:
        return not connection.execute(
            "SELECT 1 FROM pg_stat_activity WHERE application_name = 'thetaprime' AND state <> 'idle' "
            "AND datname = current_database()"
        ).fetchall()


def test_sessions_expire_once_for_all_servers(url: str) -> None:
    clock = Clock()
    with contextlib.closing(Store(url, now=clock)) as first, contextlib.closing(Store(url, now=clock)) as second:
        for index in range(30):
            add_sessions(first, record(f"s{index}", 2_000))
        clock.now = 5_000
        with ThreadPoolExecutor(2) as both:
            swept = list(both.map(lambda store: store.sweep(), (first, second)))
        assert sum(swept) == 30
        assert total(first).sessions == 0
