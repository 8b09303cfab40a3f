"""Steps that are computed before they are asked for: they come out the same, and only once."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from thetaprime import models, wire
from thetaprime.v1 import adaptation_service_pb2 as service_pb

if TYPE_CHECKING:
    from tests.support.server.service import Service

Collect = Callable[..., list[wire.Trajectory]]
MAKE_AHEAD = "thetaprime.server.sessions.uploads.precompute_step"
ADAPT_STEP = "thetaprime.server.adaptation.step.adapt_step"


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many trajectories each step was computed from."""
    found: list[int] = []

    def counted(policy: Any, parameters: Any, batch: Any, *args: Any, **kwargs: Any) -> models.InnerStep:
        found.append(len(batch.lengths))
        return models.adapt_step(policy, parameters, batch, *args, **kwargs)

    monkeypatch.setattr(ADAPT_STEP, counted)
    return found


def _content(reply: service_pb.AdaptResponse) -> bytes:
    """What a step comes to, but for the time that it took and whose it was."""
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
def test_a_step_is_the_same_whenever_it_is_computed(
    service: "Service", collect: Collect, monkeypatch: pytest.MonkeyPatch, uploads: int
) -> None:
    ahead = _round(service, collect, uploads)
    assert ahead.report.trajectories == 20 * uploads
    monkeypatch.setattr(MAKE_AHEAD, lambda *_: None)
    assert _content(_round(service, collect, uploads)) == _content(ahead)


def test_a_step_is_computed_once_and_before_it_is_asked_for(
    service: "Service", collect: Collect, steps: list[int]
) -> None:
    created = service.create()
    session_id, policy = created.session.session_id, created.policy
    for round_index in range(3):
        batch = service.upload(session_id, collect(policy), round_index=round_index).batch
        assert len(steps) == round_index + 1
        reply = service.adapt(session_id, round_index, batch.sha256)
        assert service.adapt(session_id, round_index, batch.sha256) == reply
        assert len(steps) == round_index + 1
        policy = reply.policy


def test_what_a_second_upload_outdates_is_not_used(service: "Service", collect: Collect, steps: list[int]) -> None:
    reply = _round(service, collect, uploads=3)
    assert reply.report.trajectories == 60
    assert steps == [20, 60]


def test_a_step_on_another_batch_is_refused_and_the_right_one_taken(service: "Service", collect: Collect) -> None:
    created = service.create()
    session_id = created.session.session_id
    batch = service.upload(session_id, collect(created.policy)).batch
    with service.refuses() as refusal:
        service.adapt(session_id, 0, "0" * 64)
    assert refusal.reason == "BATCH_CHANGED"
    assert service.adapt(session_id, 0, batch.sha256).session.round == 1


def test_a_session_that_was_closed_takes_no_step_that_is_there_already(
    service: "Service", collect: Collect, steps: list[int]
) -> None:
    created = service.create()
    session_id = created.session.session_id
    batch = service.upload(session_id, collect(created.policy)).batch
    assert len(steps) == 1
    service.stub.CloseSession(service_pb.CloseSessionRequest(session_id=session_id))
    with service.refuses() as refusal:
        service.adapt(session_id, 0, batch.sha256)
    assert refusal.reason == "SESSION_CLOSED"
    assert service.get(session_id).session.round == 0


def test_a_step_that_fails_ahead_fails_when_it_is_asked_for_and_not_for_ever(
    service: "Service", collect: Collect, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> models.InnerStep:
        raise RuntimeError("of this one time")

    monkeypatch.setattr(ADAPT_STEP, broken)
    created = service.create()
    session_id = created.session.session_id
    batch = service.upload(session_id, collect(created.policy)).batch
    with service.refuses() as refusal:
        service.adapt(session_id, 0, batch.sha256)
    assert refusal.code is grpc.StatusCode.INTERNAL
    monkeypatch.undo()
    assert service.adapt(session_id, 0, batch.sha256).session.round == 1


def test_an_upload_that_is_refused_has_nothing_computed(service: "Service", collect: Collect, steps: list[int]) -> None:
    created = service.create()
    session_id = created.session.session_id
    good = collect(created.policy, trajectories=20)
    off_policy = [dataclasses.replace(each, actions=each.actions + 3.0) for each in good]
    with service.refuses() as refusal:
        service.upload(session_id, off_policy)
    assert (refusal.reason, steps) == ("OFF_POLICY", [])
    batch = service.upload(session_id, good, upload_id="good").batch
    assert _content(service.adapt(session_id, 0, batch.sha256)) == _content(_round(service, collect))
