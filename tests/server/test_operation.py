"""Operation: health, reflection, internal errors, the bounded queue, and steps whose caller disconnects."""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from thetaprime import models, wire
from thetaprime.server.store.sqlite import FILE
from thetaprime.v1 import adaptation_service_pb2 as service_pb

if TYPE_CHECKING:
    from tests.support.server.service import Service, Start

Collect = Callable[..., list[wire.Trajectory]]
ADAPT_STEP = "thetaprime.models.verdict.session_step.adapt_step"
SERVICES = {"thetaprime.v1.AdaptationService", "thetaprime.v1.MetaPolicyService"}


@pytest.mark.parametrize("name", ["", *sorted(SERVICES)])
def test_each_service_is_healthy(service: "Service", name: str) -> None:
    checks = health_pb2_grpc.HealthStub(service.channel)
    reply = checks.Check(health_pb2.HealthCheckRequest(service=name))
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_describes_the_services(service: "Service") -> None:
    database = ProtoReflectionDescriptorDatabase(service.channel)
    assert set(database.get_services()) >= SERVICES | {"grpc.health.v1.Health"}
    described = database.FindFileContainingSymbol("thetaprime.v1.AdaptationService")
    assert described.name == "thetaprime/v1/adaptation_service.proto"


def test_an_unknown_method_is_unimplemented(service: "Service") -> None:
    channel: Any = service.channel
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/thetaprime.v1.AdaptationService/NoSuchThing")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_an_internal_error_sends_its_id_and_logs_the_rest(service: "Service", monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the secret")

    monkeypatch.setattr("thetaprime.server.sessions.sessions.list_sessions", fail)
    with structlog.testing.capture_logs() as logs, service.refuses() as refusal:
        service.stub.ListSessions(service_pb.ListSessionsRequest())
    assert refusal.code is grpc.StatusCode.INTERNAL
    assert "secret" not in refusal.message
    error_id = refusal.details["RequestInfo"].request_id
    assert error_id in refusal.message
    logged = next(entry for entry in logs if entry["event"] == "internal error")
    assert (logged["error_id"], logged["exc_info"]) == (error_id, True)


@pytest.mark.usefixtures("no_precomputation")
def test_a_full_queue_refuses_with_a_retry_time(
    start: "Start", collect: Collect, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(*args: Any, **kwargs: Any) -> models.InnerStep:
        begun.set()
        assert go_on.wait(60)
        return models.adapt_step(*args, **kwargs)

    with start(adaptation_threads=1, queue=0) as service:
        monkeypatch.setattr(ADAPT_STEP, slow)
        first, second = service.create(), service.create()
        batch = service.upload(first.session.session_id, collect(first.policy)).batch
        service.upload(second.session.session_id, collect(second.policy))
        request = service_pb.AdaptRequest(session_id=first.session.session_id, batch_sha256=batch.sha256)
        running = service.stub.Adapt.future(request)
        assert begun.wait(60)
        with service.refuses(second.session.session_id) as refusal:
            service.adapt(second.session.session_id, 0, batch.sha256)
        assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refusal.retry_delay > 0
        go_on.set()
        assert running.result().session.round == 1
        assert service.adapt(second.session.session_id, 0, batch.sha256).session.round == 1


@pytest.mark.usefixtures("no_precomputation")
def test_a_step_whose_caller_disconnects_is_finished_and_stored(
    service: "Service", collect: Collect, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, steps = threading.Event(), threading.Event(), []

    def slow(*args: Any, **kwargs: Any) -> models.InnerStep:
        steps.append(kwargs["step"])
        begun.set()
        assert go_on.wait(60)
        return models.adapt_step(*args, **kwargs)

    monkeypatch.setattr(ADAPT_STEP, slow)
    created = service.create()
    session_id = created.session.session_id
    batch = service.upload(session_id, collect(created.policy)).batch
    call: Any = service.stub.Adapt.future(service_pb.AdaptRequest(session_id=session_id, batch_sha256=batch.sha256))
    assert begun.wait(60)
    call.cancel()
    go_on.set()
    assert service.adapt(session_id, 0, batch.sha256).session.round == 1
    assert steps == [0]


def test_calls_that_read_are_served_while_calls_that_write_wait_for_the_store(start: "Start", tmp_path: Path) -> None:
    with start(store=tmp_path / "store") as service, ThreadPoolExecutor(12) as threads:
        session_id = service.create().session.session_id
        with contextlib.closing(sqlite3.connect(tmp_path / "store" / FILE, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            writing = [threads.submit(service.create) for _ in range(12)]
            while not any(each.running() for each in writing):
                time.sleep(0.01)
            for _ in range(5):
                assert service.get(session_id).session.session_id == session_id
            assert not any(each.done() for each in writing)
            other.execute("ROLLBACK")
        assert len({each.result().session.session_id for each in writing}) == 12
