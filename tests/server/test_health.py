"""Health checks: NOT_SERVING while the store fails and while the server drains."""

import asyncio
import contextlib
import errno
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from thetaprime.server import running_server
from thetaprime.server.errors import UnavailableError
from thetaprime.server.store import BlobStore, Store
from thetaprime.server.telemetry import health

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
        time.sleep(0.01)


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
        with moved(config.store):
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
            patched.setattr(BlobStore, "put", refuse)
            wait_for(service.channel, NOT_SERVING)
        wait_for(service.channel, SERVING)
        assert service.create().policy.policy_id


def test_a_disk_that_hangs_is_not_serving(start: "Start", monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(health, "_HUNG_SECONDS", 0.02)
    with start(probe_seconds=0.02) as service:
        with monkeypatch.context() as patched:
            patched.setattr(health, "probe_store", lambda _: go_on.wait(60))
            wait_for(service.channel, NOT_SERVING)
        monkeypatch.setattr(health, "_HUNG_SECONDS", 60)
        go_on.set()
        wait_for(service.channel, SERVING)
        assert service.create().policy.policy_id


def test_a_busy_store_is_serving(start: "Start", monkeypatch: pytest.MonkeyPatch) -> None:
    probed = threading.Semaphore(0)

    def busy(_: Store) -> None:
        probed.release()
        raise UnavailableError("the store is busy", retry_after=1.0)

    with start(probe_seconds=0.01) as service:
        monkeypatch.setattr(health, "probe_store", busy)
        for _ in range(3):  # the third probe starts after the first one was evaluated
            assert probed.acquire(timeout=60)
        assert status(service.channel) == SERVING


def test_the_probe_writes_to_the_store_and_leaves_no_blob(tmp_path: Path) -> None:
    with contextlib.closing(Store(tmp_path)) as store:
        log = tmp_path / "thetaprime.sqlite3-wal"
        before = log.stat().st_size, log.stat().st_mtime_ns
        health.probe_store(store)
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


def test_a_draining_server_stays_not_serving_when_its_store_recovers(start: "Start") -> None:
    async def run() -> None:
        drained = health.Health(SERVICES[1:], _Metrics())  # type: ignore[arg-type]
        await drained.set_serving()
        await drained.drain()
        await drained.set_serving()
        assert set(drained.servicer._server_status.values()) == {NOT_SERVING}

    asyncio.run(run())


class _Metrics:
    class serving:  # noqa: N801
        @staticmethod
        def set(value: float) -> None: ...
