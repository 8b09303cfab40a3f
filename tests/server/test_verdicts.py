"""Verdicts through a server: policies that are handed out again, options, and what a repeated call returns."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
import sqlalchemy as sa

from tests.support.server.metrics_page import free_address, scrape, value
from thetaprime import models, wire
from thetaprime.models.verdict import Decision, ReasonCode
from thetaprime.server.sessions.sessions import CreateArguments
from thetaprime.server.store import Store, tables
from thetaprime.v1 import adaptation_service_pb2 as service_pb

if TYPE_CHECKING:
    from tests.support.server.service import Service, Start

Collect = Callable[..., list[wire.Trajectory]]


def _paid(trajectories: list[wire.Trajectory], reward: float) -> list[wire.Trajectory]:
    """The same trajectories, with one reward at every step."""
    return [dataclasses.replace(each, rewards=np.full_like(each.rewards, reward)) for each in trajectories]


def _shifted(trajectories: list[wire.Trajectory], offset: float) -> list[wire.Trajectory]:
    return [dataclasses.replace(each, rewards=each.rewards + np.float32(offset)) for each in trajectories]


def _take(
    service: "Service", session_id: str, trajectories: list[wire.Trajectory], index: int
) -> service_pb.AdaptResponse:
    ack = service.upload(session_id, trajectories, round_index=index)
    reply = service.adapt(session_id, index, ack.batch.sha256)
    assert service.adapt(session_id, index, ack.batch.sha256) == reply
    return reply


def test_names_of_decisions_and_reasons_are_those_of_the_wire() -> None:
    assert {f"DECISION_{each.value}" for each in Decision} | {"DECISION_UNSPECIFIED"} == {*service_pb.Decision.keys()}
    codes = {f"REASON_CODE_{each.value}" for each in ReasonCode}
    assert codes | {"REASON_CODE_UNSPECIFIED"} == {*service_pb.ReasonCode.keys()}


def test_a_step_without_a_signal_is_held_and_its_policy_is_the_one_before(
    start: "Start", collect: Collect, tmp_path: Path
) -> None:
    with start(store=tmp_path) as service:
        created = service.create()
        session_id, theta = created.session.session_id, created.policy
        assert (created.session.best_round, created.session.best_policy_id) == (0, theta.policy_id)
        for index in range(2):
            reply = _take(service, session_id, _paid(collect(theta, seed=index), 1.0), index)
            verdict = reply.report.verdict
            assert verdict.decision == service_pb.DECISION_HELD
            assert [reason.code for reason in verdict.reasons] == [service_pb.REASON_CODE_NO_SIGNAL]
            assert verdict.reasons[0].text
            assert reply.report.kl_divergence == 0.0
            assert (reply.session.round, reply.session.policy_id) == (index + 1, theta.policy_id)
            # The same file to the bit: a client that cached it need not load it again.
            assert reply.policy.onnx == theta.onnx
        # The session goes on where a signal comes.
        reply = _take(service, session_id, collect(theta, seed=7), 2)
        assert reply.report.verdict.decision == service_pb.DECISION_TAKEN
        codes = [reason.code for reason in reply.report.verdict.reasons]
        assert codes[0] == service_pb.REASON_CODE_CONTRADICTORY_EPISODES
        assert reply.policy.policy_id != theta.policy_id
        before = service.get(session_id)
    with start(store=tmp_path) as service:
        assert service.get(session_id) == before
        for index, expected in ((1, theta), (2, theta), (3, reply.policy)):
            request = service_pb.GetPolicyRequest(session_id=session_id, round=index)
            assert service.stub.GetPolicy(request).policy.onnx == expected.onnx


def test_a_step_that_hurt_is_rolled_back_to_the_best_policy(start: "Start", collect: Collect, tmp_path: Path) -> None:
    with start(store=tmp_path) as service:
        created = service.create()
        session_id = created.session.session_id
        first = _take(service, session_id, collect(created.policy, trajectories=20), 0)
        worse = _take(service, session_id, _shifted(collect(first.policy, trajectories=20), -1.0), 1)
    verdict = worse.report.verdict
    assert verdict.decision == service_pb.DECISION_ROLLED_BACK
    assert service_pb.REASON_CODE_REALIZED_HARM in [reason.code for reason in verdict.reasons]
    assert verdict.realized_gain.low < verdict.realized_gain.value < verdict.realized_gain.high < 0.0
    assert (verdict.best_round, worse.session.best_policy_id) == (0, created.policy.policy_id)
    assert worse.policy.parent_id == first.policy.policy_id
    # A gain names the other policy as the best, also after a restart and in every later answer.
    with start(store=tmp_path) as service:
        better = _take(service, session_id, _shifted(collect(worse.policy, trajectories=20), 1.0), 2)
        assert (better.session.best_round, better.session.best_policy_id) == (2, worse.policy.policy_id)
        session = service.get(session_id).session
        assert (session.best_round, session.best_policy_id) == (2, worse.policy.policy_id)
        reports = service.get(session_id).reports
        assert [report.verdict.best_round for report in reports] == [0, 0, 2]
        # A repeated call gets the answer of its time.
        batch = reports[1].batch_sha256
        again = service.adapt(session_id, 1, batch)
        assert again.report == worse.report
        assert (again.session.best_round, again.session.best_policy_id) == (0, created.policy.policy_id)


def test_without_caution_the_next_step_is_taken_and_the_reason_is_given(service: "Service", collect: Collect) -> None:
    options = service_pb.SessionOptions(caution=service_pb.CAUTION_WARN, max_kl=1e6, reward_offset=-0.5)
    created = service.create(options=options)
    assert created.session.options == options
    session_id = created.session.session_id
    first = _take(service, session_id, collect(created.policy, trajectories=20), 0)
    worse = _take(service, session_id, _shifted(collect(first.policy, trajectories=20), -1.0), 1)
    verdict = worse.report.verdict
    assert verdict.decision == service_pb.DECISION_TAKEN
    assert verdict.reasons[0].code == service_pb.REASON_CODE_REALIZED_HARM
    assert "With caution hold" in verdict.reasons[0].text


def test_a_limit_on_the_divergence_holds_on_the_wire(service: "Service", collect: Collect) -> None:
    free = service.create()
    whole = _take(service, free.session.session_id, collect(free.policy), 0).report.kl_divergence
    created = service.create(options=service_pb.SessionOptions(max_kl=whole / 4.0))
    reply = _take(service, created.session.session_id, collect(created.policy), 0)
    assert reply.report.kl_divergence == pytest.approx(whole / 4.0, rel=0.01)
    assert reply.report.verdict.decision == service_pb.DECISION_SHORTENED
    (reason,) = reply.report.verdict.reasons
    assert (reason.code, reason.limit) == (service_pb.REASON_CODE_KL_LIMIT, whole / 4.0)
    assert reason.value == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"reward_scale": 0.0}, "options.reward_scale"),
        ({"reward_scale": float("nan")}, "options.reward_scale"),
        ({"reward_offset": float("inf")}, "options.reward_offset"),
        ({"max_kl": -1.0}, "options.max_kl"),
        ({"caution": 9}, "options.caution"),
    ],
)
def test_options_out_of_range_are_refused(service: "Service", options: dict[str, Any], field: str) -> None:
    with service.refuses() as refusal:
        service.create(options=service_pb.SessionOptions(**options))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert field in refusal.message


def test_a_request_without_new_options_has_the_digest_of_earlier_servers() -> None:
    arguments = CreateArguments("m", 1, 0.5, None)
    assert arguments.sha256 == wire.sha256_hex(b'["m", 1, 0.5, null]')
    assert len({arguments.sha256, *(dataclasses.replace(arguments, caution=each).sha256 for each in (1, 2, 3))}) == 4


def test_a_session_that_is_older_than_memories_goes_on_without_a_guard(
    start: "Start", collect: Collect, zoo: Path, tmp_path: Path
) -> None:
    with start(store=tmp_path) as service:
        created = service.create()
        session_id = created.session.session_id
        first = _take(service, session_id, collect(created.policy), 0)
    store = Store(tmp_path)
    with store.writing() as connection:
        connection.execute(sa.update(tables.policies).values(memory=None))
        connection.execute(sa.update(tables.sessions).values(best_round=None, best_policy_id=None))
    store.close()
    trajectories = collect(first.policy, seed=1)
    with start(store=tmp_path) as service:
        second = _take(service, session_id, trajectories, 1)
        third = _take(service, session_id, collect(second.policy, seed=2), 2)
    meta_policy = models.load_meta_policy(zoo / "point-navigation" / "2")
    batch = models.TrajectoryBatch.concatenate(
        [each.observations for each in trajectories],
        [each.actions for each in trajectories],
        [each.rewards for each in trajectories],
        [each.terminated for each in trajectories],
        [each.final_observation for each in trajectories],
    )
    parameters = meta_policy.template.read(first.policy.onnx)
    own = models.adapt_step(meta_policy.policy, parameters, batch, meta_policy.manifest.adaptation, step=1)
    assert second.policy.policy_id == models.parameters_digest(own.parameters)
    assert third.session.round == 3


def test_decisions_are_counted_once_by_reason(start: "Start", collect: Collect) -> None:
    address = free_address()
    with start(metrics_address=address) as service:
        created = service.create()
        session_id = created.session.session_id
        _take(service, session_id, _paid(collect(created.policy), 0.0), 0)
        _take(service, session_id, collect(created.policy, seed=1), 1)
        page = scrape(address)
    assert value(page, "thetaprime_decisions_total", decision="HELD", reason="NO_SIGNAL") == 1
    assert value(page, "thetaprime_decisions_total", decision="TAKEN", reason="CONTRADICTORY_EPISODES") == 1
