"""Health checks: NOT_SERVING while the store fails and while the server drains."""

import asyncio
import contextlib
import errno
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import h2.events
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.faults.http2_peer import Http2Peer, message
from thetaprime.server import ServerConfig, running_server
from thetaprime.server.store import BlobFolder, Store
from thetaprime.server.telemetry import store_probe
from thetaprime.server.telemetry.health import Health
from thetaprime.server.telemetry.instrumented_store import InstrumentedStore
from thetaprime.server.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from tests.support.server.service import Configure, Start

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = ("", "thetaprime.v1.AdaptationService", "thetaprime.v1.MetaPolicyService")


def status(channel: grpc.Channel, name: str = "") -> "health_pb2.HealthCheckResponse.ServingStatus":
    request = health_pb2.HealthCheckRequest(service=name)
    reply = health_pb2_grpc.HealthStub(channel).Check(request, timeout=60)
    return reply.status


def wait_for(channel: grpc.Channel, wanted: "health_pb2.HealthCheckResponse.ServingStatus") -> None:
    """Waits until every service has a status."""
    deadline = time.monotonic() + 60
    while {status(channel, name) for name in SERVICES} != {wanted}:
        assert time.monotonic() < deadline
        # An address has 100 health checks a second.
        time.sleep(0.05)


@contextlib.contextmanager
def moved(folder: Path) -> Iterator[None]:
    away = folder.with_name(folder.name + "-away")
    folder.rename(away)
    yield
    away.rename(folder)


def test_a_missing_store_is_not_serving_until_it_is_back(configure: "Configure", connect: Any) -> None:
    config = configure(probe_seconds=0.02)
    with running_server(config) as address, connect(address) as service:
        session_id = service.create().session.session_id
        wait_for(service.channel, SERVING)
        with moved(Path(config.store)):
            wait_for(service.channel, NOT_SERVING)
        wait_for(service.channel, SERVING)
        assert service.get(session_id).session.session_id == session_id


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_refuses_writes_is_not_serving(start: "Start", monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: object) -> str:
        raise OSError(code, "as the disk says")

    with start(probe_seconds=0.02) as service:
        service.create()
        with monkeypatch.context() as patched:
            patched.setattr(BlobFolder, "put", refuse)
            wait_for(service.channel, NOT_SERVING)
        wait_for(service.channel, SERVING)
        assert service.create().policy.policy_id


def test_a_disk_that_hangs_is_not_serving(start: "Start", monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    with start(probe_seconds=0.02) as service:
        with monkeypatch.context() as patched:
            patched.setattr(store_probe, "probe_store", lambda _: go_on.wait(60))
            wait_for(service.channel, NOT_SERVING)
        go_on.set()
        wait_for(service.channel, SERVING)
        assert service.create().policy.policy_id


def test_a_locked_database_is_not_serving_after_two_seconds(configure: "Configure", connect: Any) -> None:
    config = configure(probe_seconds=1.0)
    with running_server(config) as address, connect(address) as service:
        wait_for(service.channel, SERVING)
        database = Path(config.store) / "thetaprime.sqlite3"
        with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            locked = time.monotonic()
            wait_for(service.channel, NOT_SERVING)
            assert time.monotonic() - locked < 2 + 2  # two more seconds for a busy machine
            other.execute("ROLLBACK")
            wait_for(service.channel, SERVING)


def test_a_store_that_was_replaced_refuses_calls_and_is_not_serving(configure: "Configure", connect: Any) -> None:
    config = configure(probe_seconds=0.02)
    with running_server(config) as address, connect(address) as service:
        session_id = service.create().session.session_id
        with moved(Path(config.store)):
            Store(config.store).close()
            wait_for(service.channel, NOT_SERVING)
            for call in (service.create, lambda: service.get(session_id)):
                with service.refuses() as refusal:
                    call()
                assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_FAILED")
            shutil.rmtree(config.store)
        wait_for(service.channel, SERVING)
        assert service.get(session_id).session.session_id == session_id


def test_a_store_that_is_busy_with_other_writes_is_serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_probe, "_HUNG_SECONDS", 0.02)
    go_on = threading.Event()
    monkeypatch.setattr(store_probe, "probe_store", lambda _: go_on.wait(60))
    reports: asyncio.Queue[bool] = asyncio.Queue()

    async def run(store: InstrumentedStore) -> None:
        watching = asyncio.create_task(store_probe.watch_store(store, 0.001, reports.put_nowait))
        for _ in range(20):
            await asyncio.sleep(0.005)
            store.writes += 1
        assert reports.empty()
        assert not await reports.get()
        go_on.set()
        while not await reports.get():
            pass
        watching.cancel()

    with contextlib.closing(InstrumentedStore(ServerConfig(store=tmp_path), Metrics())) as store:
        asyncio.run(run(store))


def test_the_probe_writes_to_the_store_and_leaves_no_blob(tmp_path: Path) -> None:
    with contextlib.closing(Store(tmp_path)) as store:
        log = tmp_path / "thetaprime.sqlite3-wal"
        before = log.stat().st_size, log.stat().st_mtime_ns
        store_probe.probe_store(store)
        assert (log.stat().st_size, log.stat().st_mtime_ns) != before
        assert not list(store.blobs.digests())


def test_not_serving_comes_before_calls_are_refused(
    configure: "Configure", connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready: list[str] = []
    noticed: list[float] = []

    def call_during_the_notice() -> None:
        with connect(ready[0]) as service:
            assert {status(service.channel, name) for name in SERVICES} == {NOT_SERVING}
            service.create()

    async def notice(seconds: float) -> None:
        await asyncio.to_thread(call_during_the_notice)
        noticed.append(seconds)

    monkeypatch.setattr("thetaprime.server.runtime.lifecycle._wait_for_load_balancers", notice)
    with running_server(configure(drain_notice=7.0)) as address:
        ready.append(address)
    assert noticed == [7.0]


def test_a_draining_server_stays_not_serving_when_its_store_recovers() -> None:
    async def run() -> None:
        drained = Health(SERVICES[1:], Metrics())
        drained.drain()
        drained.set_serving(True)
        for name in SERVICES:
            reply = await drained.Check(health_pb2.HealthCheckRequest(service=name), None)  # type: ignore[arg-type]
            assert reply.status == NOT_SERVING

    asyncio.run(run())


def test_an_unknown_service_is_unknown(start: "Start") -> None:
    request = health_pb2.HealthCheckRequest(service="elsewhere")
    with start() as service:
        stub = health_pb2_grpc.HealthStub(service.channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.Check(request, timeout=60)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        assert next(stub.Watch(request, timeout=60)).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def test_watchers_hear_of_every_change_beside_one_that_left_and_one_that_reads_nothing(
    configure: "Configure", connect: Any
) -> None:
    config = configure(probe_seconds=0.02)
    request = health_pb2.HealthCheckRequest()
    with running_server(config) as address, connect(address) as service, Http2Peer(address, window=0) as deaf:
        deaf.call("/grpc.health.v1.Health/Watch", message(b""))
        deaf.receive(h2.events.ResponseReceived)
        stub = health_pb2_grpc.HealthStub(service.channel)
        leaving, staying = stub.Watch(request, timeout=60), stub.Watch(request, timeout=60)
        assert next(leaving).status == next(staying).status == SERVING
        leaving.cancel()
        with moved(Path(config.store)):
            assert next(staying).status == NOT_SERVING
        assert next(staying).status == SERVING
