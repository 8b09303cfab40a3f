"""Precomputed steps: the same as those that `Adapt` computes, computed once, and never in the way of an upload."""

import asyncio
import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import structlog

from tests.support.server.metrics_page import free_address, scrape, value
from tests.support.server.supervised import until
from thetaprime import models, wire
from thetaprime.server import failpoints
from thetaprime.server.scheduling.fair_slots import FairSlots
from thetaprime.v1 import adaptation_service_pb2 as service_pb

if TYPE_CHECKING:
    from tests.support.server.service import Service, Start

Collect = Callable[..., list[wire.Trajectory]]
ADAPT_STEP = "thetaprime.models.verdict.session_step.adapt_step"


def _content(reply: service_pb.AdaptResponse) -> bytes:
    """The policy and the report of a step, without its seconds."""
    report = service_pb.AdaptationReport()
    report.CopyFrom(reply.report)
    report.seconds = 0.0
    return reply.policy.SerializeToString(deterministic=True) + report.SerializeToString(deterministic=True)


def _round(service: "Service", collect: Collect, uploads: int = 1) -> service_pb.AdaptResponse:
    created = service.create()
    for index in range(uploads):
        trajectories = collect(created.policy, trajectories=20, seed=index)
        ack = service.upload(created.session.session_id, trajectories, upload_id=str(index))
    return service.adapt(created.session.session_id, 0, ack.batch.sha256)


@pytest.mark.parametrize("uploads", [1, 2])
def test_a_precomputed_step_is_the_step_that_adapt_computes(
    service: "Service", collect: Collect, request: pytest.FixtureRequest, uploads: int
) -> None:
    precomputed = _round(service, collect, uploads)
    assert precomputed.report.trajectories == 20 * uploads
    request.getfixturevalue("no_precomputation")
    assert _content(_round(service, collect, uploads)) == _content(precomputed)


def test_the_step_of_a_round_with_one_upload_is_computed_once_at_the_upload(
    service: "Service", collect: Collect, steps: list[int]
) -> None:
    created = service.create()
    session_id, policy = created.session.session_id, created.policy
    for round_index in range(3):
        batch = service.upload(session_id, collect(policy), round_index=round_index).batch
        reply = service.adapt(session_id, round_index, batch.sha256)
        assert len(steps) == round_index + 1
        assert service.adapt(session_id, round_index, batch.sha256) == reply
        assert len(steps) == round_index + 1
        policy = reply.policy


def test_a_second_upload_invalidates_the_precomputed_step(
    service: "Service", collect: Collect, steps: list[int]
) -> None:
    reply = _round(service, collect, uploads=3)
    assert reply.report.trajectories == 60
    assert steps == [20, 60]


def test_a_step_on_another_batch_is_refused_and_the_right_step_taken(service: "Service", collect: Collect) -> None:
    created = service.create()
    session_id = created.session.session_id
    batch = service.upload(session_id, collect(created.policy)).batch
    with service.refuses() as refusal:
        service.adapt(session_id, 0, "0" * 64)
    assert refusal.reason == "BATCH_CHANGED"
    assert service.adapt(session_id, 0, batch.sha256).session.round == 1


def test_a_closed_session_refuses_a_precomputed_step(service: "Service", collect: Collect, steps: list[int]) -> None:
    created = service.create()
    session_id = created.session.session_id
    batch = service.upload(session_id, collect(created.policy)).batch
    # The upload is acknowledged while its step is computed.
    until(lambda: len(steps) or None)
    service.stub.CloseSession(service_pb.CloseSessionRequest(session_id=session_id))
    with service.refuses() as refusal:
        service.adapt(session_id, 0, batch.sha256)
    assert refusal.reason == "SESSION_CLOSED"
    assert service.get(session_id).session.round == 0


def test_a_failed_precomputation_is_logged_and_counted_and_adapt_computes_the_step(
    start: "Start", collect: Collect, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> models.InnerStep:
        raise RuntimeError("broken once")

    address = free_address()
    with start(metrics_address=address) as service, structlog.testing.capture_logs() as logs:
        created = service.create()
        session_id = created.session.session_id
        monkeypatch.setattr(ADAPT_STEP, broken)
        batch = service.upload(session_id, collect(created.policy)).batch
        with service.refuses() as refusal:
            service.adapt(session_id, 0, batch.sha256)
        assert refusal.code is grpc.StatusCode.INTERNAL
        (entry,) = [each for each in logs if each["event"] == "step not precomputed"]
        assert (entry["log_level"], entry["session_id"], entry["round"]) == ("warning", session_id, 0)
        assert entry["exc_info"] is True
        assert value(scrape(address), "thetaprime_precomputed_steps_total", result="failed") == 1
        monkeypatch.undo()
        assert service.adapt(session_id, 0, batch.sha256).session.round == 1


class SlowStep:
    """A step that waits, once it has begun, until it may go on."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, *args: Any, **kwargs: Any) -> models.InnerStep:
        self.begun.set()
        assert self.go_on.wait(60)
        return models.adapt_step(*args, **kwargs)


def test_an_upload_is_acknowledged_before_its_step_is_computed_and_adapt_waits_for_the_step(
    service: "Service", collect: Collect, monkeypatch: pytest.MonkeyPatch
) -> None:
    created, slow = service.create(), SlowStep()
    session_id = created.session.session_id
    monkeypatch.setattr(ADAPT_STEP, slow)
    with ThreadPoolExecutor(1) as threads:
        batch = service.upload(session_id, collect(created.policy)).batch
        try:
            assert slow.begun.wait(60)
            # A second step would fail.
            monkeypatch.setattr(ADAPT_STEP, None)
            adapted = threads.submit(service.adapt, session_id, 0, batch.sha256)
            # The server still answers, and the call waits.
            for _ in range(3):
                assert service.get(session_id).session.round == 0
            assert not adapted.done()
        finally:
            slow.go_on.set()
        assert adapted.result().session.round == 1


def test_an_upload_s_memory_is_released_before_its_step_is_computed(
    service: "Service", start: "Start", collect: Collect, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowStep()
    # Room for one upload at a time: the two have one size.
    size = len(wire.pack(collect(service.create().policy)))
    with start(max_upload_bytes=size, max_inflight_bytes=size) as small:
        first, second = small.create(), small.create()
        monkeypatch.setattr(ADAPT_STEP, slow)
        batch = small.upload(first.session.session_id, collect(first.policy)).batch
        try:
            assert slow.begun.wait(60)
            monkeypatch.undo()
            assert small.upload(second.session.session_id, collect(second.policy)).batch.uploads == 1
        finally:
            slow.go_on.set()
        assert small.adapt(first.session.session_id, 0, batch.sha256).session.round == 1


def test_an_upload_whose_commit_fails_leaves_a_step_that_no_call_can_take(
    service: "Service", collect: Collect, steps: list[int]
) -> None:
    created = service.create()
    session_id, trajectories = created.session.session_id, collect(created.policy, trajectories=20)
    digest = wire.batch_digest([wire.sha256_hex(wire.pack(trajectories))])
    failpoints.arm("upload.row=full")
    try:
        with service.refuses():
            service.upload(session_id, trajectories)
    finally:
        failpoints.arm("")
    with service.refuses() as refusal:
        service.adapt(session_id, 0, digest)
    assert (refusal.reason, steps) == ("EMPTY_BATCH", [20])
    batch = service.upload(session_id, trajectories).batch
    assert _content(service.adapt(session_id, 0, batch.sha256)) == _content(_round(service, collect))


def test_an_upload_and_its_step_take_one_turn_of_the_tenant(
    service: "Service", collect: Collect, monkeypatch: pytest.MonkeyPatch, steps: list[int]
) -> None:
    created = service.create()
    trajectories = collect(created.policy)
    asked: list[FairSlots] = []
    ask = FairSlots.ask

    def record(slots: FairSlots, tenant: str) -> "asyncio.Future[None]":
        asked.append(slots)
        return ask(slots, tenant)

    monkeypatch.setattr(FairSlots, "ask", record)
    batch = service.upload(created.session.session_id, trajectories).batch
    # One transaction admits the upload. The step begins beside its verification, and asks for no turn.
    assert len(asked) == len(set(asked)) == 2
    service.adapt(created.session.session_id, 0, batch.sha256)
    assert len(steps) == 1


def test_no_step_is_computed_for_an_upload_that_only_measures_before_adapt_asks_for_it(
    service: "Service", collect: Collect, steps: list[int]
) -> None:
    created = service.create()
    session_id, payload = created.session.session_id, wire.pack(collect(created.policy, trajectories=20))
    counted = sum(map(len, wire.unpack(payload)))
    batch = service.send(wire.iter_upload(session_id, "a", 0, payload, 20, counted, only_measures=True)).batch
    assert service.get(session_id).session.batch == batch
    assert steps == []
    adapted = service.adapt(session_id, 0, batch.sha256)
    assert steps == [20]
    assert _content(adapted) == _content(_round(service, collect))


def test_no_step_is_computed_for_a_refused_upload(service: "Service", collect: Collect, steps: list[int]) -> None:
    created = service.create()
    session_id = created.session.session_id
    good = collect(created.policy, trajectories=20)
    off_policy = [dataclasses.replace(each, actions=each.actions + 3.0) for each in good]
    with service.refuses() as refusal:
        service.upload(session_id, off_policy)
    assert (refusal.reason, steps) == ("OFF_POLICY", [])
    batch = service.upload(session_id, good, upload_id="good").batch
    assert _content(service.adapt(session_id, 0, batch.sha256)) == _content(_round(service, collect))
