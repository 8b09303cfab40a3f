"""Steps that are computed before they are asked for: they come out the same, and cost nobody a turn."""

import dataclasses
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from thetaprime import models, wire
from thetaprime.server.ahead import Ahead
from thetaprime.v1 import adaptation_service_pb2 as service_pb

if TYPE_CHECKING:
    from tests.server.conftest import Service, Start

Collect = Callable[..., list[wire.Trajectory]]
SECONDS = 60.0


class Begun:
    """What `Ahead.begin` answered."""

    def __init__(self) -> None:
        self.answers: list[bool] = []
        self.steps = 0


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Begun:
    found, begin = Begun(), Ahead.begin

    def noted(*args: Any) -> bool:
        found.answers.append(begin(*args))
        return found.answers[-1]

    def counted(*args: Any, **kwargs: Any) -> models.InnerStep:
        found.steps += 1
        return models.adapt_step(*args, **kwargs)

    monkeypatch.setattr(Ahead, "begin", noted)
    monkeypatch.setattr("thetaprime.server.step.adapt_step", counted)
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


def test_a_round_of_one_upload_is_computed_once_and_the_same(
    service: "Service", collect: Collect, begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = _round(service, collect)
    assert (begun.answers, begun.steps) == ([True], 1)
    monkeypatch.setattr(Ahead, "begin", lambda *_: False)
    assert _content(_round(service, collect)) == _content(beside)  # on the upload's own thread
    assert begun.steps == 2
    monkeypatch.setattr("thetaprime.server.uploads.make_ahead", lambda *_: None)
    assert _content(_round(service, collect)) == _content(beside)  # when it is asked for
    assert begun.steps == 3


@pytest.mark.parametrize("processor_is_free", [True, False])
def test_a_step_is_computed_before_it_is_asked_for(
    service: "Service", collect: Collect, begun: Begun, monkeypatch: pytest.MonkeyPatch, processor_is_free: bool
) -> None:
    if not processor_is_free:
        monkeypatch.setattr(Ahead, "begin", lambda *_: False)
    created = service.create()
    session_id = created.session.session_id
    batch = service.upload(session_id, collect(created.policy)).batch

    def too_late(*args: Any, **kwargs: Any) -> models.InnerStep:
        raise AssertionError("computed again")

    while not begun.steps:
        assert processor_is_free  # its own thread has computed it by the acknowledgement
    monkeypatch.setattr("thetaprime.server.step.adapt_step", too_late)
    assert service.adapt(session_id, 0, batch.sha256).session.round == 1


def test_what_a_second_upload_outdates_is_not_used(
    service: "Service", collect: Collect, begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = _round(service, collect, uploads=2)
    assert begun.answers == [True, False]
    assert reply.report.trajectories == 40
    monkeypatch.setattr(Ahead, "begin", lambda *_: False)
    assert _content(_round(service, collect, uploads=2)) == _content(reply)
    monkeypatch.setattr("thetaprime.server.uploads.make_ahead", lambda *_: None)
    assert _content(_round(service, collect, uploads=2)) == _content(reply)


def test_one_step_at_a_time_takes_a_processor_besides_its_uploads(
    start: "Start", collect: Collect, begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, go_on = threading.Event(), threading.Event()

    def slow(*args: Any, **kwargs: Any) -> models.InnerStep:
        if threading.current_thread().name.startswith("ahead"):
            running.set()
            assert go_on.wait(SECONDS)
        return models.adapt_step(*args, **kwargs)

    with start(adaptation_threads=1) as service:
        first, second = service.create(), service.create()
        monkeypatch.setattr("thetaprime.server.step.adapt_step", slow)
        batch = service.upload(first.session.session_id, collect(first.policy)).batch
        assert running.wait(SECONDS)
        # One step runs ahead: the second one takes its upload's own thread.
        service.upload(second.session.session_id, collect(second.policy))
        assert begun.answers == [True, False]
        go_on.set()
        for created in (second, first):
            assert service.adapt(created.session.session_id, 0, batch.sha256).session.round == 1


@pytest.mark.parametrize("processor_is_free", [True, False])
def test_a_step_that_fails_ahead_fails_when_it_is_asked_for_and_not_for_ever(
    service: "Service", collect: Collect, monkeypatch: pytest.MonkeyPatch, processor_is_free: bool
) -> None:
    if not processor_is_free:
        monkeypatch.setattr(Ahead, "begin", lambda *_: False)

    def broken(*args: Any, **kwargs: Any) -> models.InnerStep:
        raise RuntimeError("of this one time")

    monkeypatch.setattr("thetaprime.server.step.adapt_step", broken)
    created = service.create()
    session_id = created.session.session_id
    batch = service.upload(session_id, collect(created.policy)).batch
    with service.refuses():
        service.adapt(session_id, 0, batch.sha256)
    monkeypatch.undo()
    assert service.adapt(session_id, 0, batch.sha256).session.round == 1


def test_what_an_upload_that_is_refused_has_begun_is_not_used(
    service: "Service", collect: Collect, begun: Begun
) -> None:
    created = service.create()
    session_id = created.session.session_id
    good = collect(created.policy, trajectories=20)
    off_policy = [dataclasses.replace(each, actions=each.actions + 3.0) for each in good]
    with service.refuses() as refusal:
        service.upload(session_id, off_policy)
    assert (refusal.reason, begun.answers) == ("OFF_POLICY", [True])
    batch = service.upload(session_id, good, upload_id="good").batch
    assert _content(service.adapt(session_id, 0, batch.sha256)) == _content(_round(service, collect))
