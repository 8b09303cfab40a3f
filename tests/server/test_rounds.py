"""A session from its creation to its expiry, as a client sees it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
import onnxruntime
import pytest
import torch
from google.protobuf import duration_pb2

from thetaprime import models, wire
from thetaprime.models.verdict import RoundMemory, StepOptions, next_step
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import meta_policy_service_pb2 as meta_pb

if TYPE_CHECKING:
    from tests.support.server.service import Service, Start

Collect = Callable[..., list[wire.Trajectory]]


@pytest.mark.parametrize("caution", [service_pb.CAUTION_OFF, service_pb.CAUTION_HOLD])
def test_rounds_take_the_steps_of_the_models_package(
    service: "Service", collect: Collect, zoo: Path, caution: service_pb.Caution
) -> None:
    meta_policy = models.load_meta_policy(zoo / "point-navigation" / "2")
    options = service_pb.SessionOptions(step_size_scale=0.5, caution=caution)
    created = service.create(options=options)
    session, policy, path = created.session, created.policy, [meta_policy.parameters]
    history: list[RoundMemory] = []
    ids = [policy.policy_id]
    for index in range(3):
        trajectories = collect(policy, trajectories=6, seed=index)
        ack = service.upload(session.session_id, trajectories, round_index=index)
        reply = service.adapt(session.session_id, index, ack.batch.sha256)
        batch = models.TrajectoryBatch.concatenate(
            [each.observations for each in trajectories],
            [each.actions for each in trajectories],
            [each.rewards for each in trajectories],
            [each.terminated for each in trajectories],
            [each.final_observation for each in trajectories],
        )
        if caution == service_pb.CAUTION_OFF:
            parameters = models.adapt_step(
                meta_policy.policy, path[-1], batch, meta_policy.manifest.adaptation, step=index, scale=0.5
            ).parameters
        else:
            step = next_step(meta_policy, history, batch, path[-1], path.__getitem__, StepOptions(step_size_scale=0.5))
            parameters = step.parameters
            history.append(step.memory)
            assert reply.report.verdict.decision == service_pb.Decision.Value(f"DECISION_{step.verdict.decision.value}")
            assert reply.session.best_round == step.verdict.best_round
            assert reply.session.best_policy_id == ids[step.verdict.best_round]
        path.append(parameters)

        assert reply.policy.policy_id == models.parameters_digest(parameters)
        assert reply.policy.policy_id in ids or reply.policy.parent_id == policy.policy_id
        ids.append(reply.policy.policy_id)
        assert reply.policy.onnx_sha256 == wire.sha256_hex(reply.policy.onnx)
        assert reply.session.round == index + 1
        assert reply.session.policy_id == reply.policy.policy_id
        assert reply.session.batch == service_pb.UploadedBatch()
        assert reply.report.round == index
        assert (reply.report.trajectories, reply.report.steps) == (6, 48)
        assert np.isclose(reply.report.mean_return, float(batch.returns.mean()))
        assert (reply.report.kl_divergence > 0) is (reply.policy.policy_id != policy.policy_id)
        assert reply.report.gradient_norm > 0
        policy = reply.policy

    got = service.get(session.session_id)
    assert [report.round for report in got.reports] == [0, 1, 2]
    assert got.session.round == 3
    observations = wire.array_from_message(policy.golden.observations, "observations")
    (actions,) = onnxruntime.InferenceSession(policy.onnx).run(["actions"], {"obs": observations})
    np.testing.assert_allclose(actions, wire.array_from_message(policy.golden.actions, "actions"), atol=1e-5)
    np.testing.assert_allclose(
        actions, meta_policy.policy.act(parameters, torch.from_numpy(observations.copy())).detach(), atol=1e-5
    )


def test_the_policy_of_every_round_is_readable_after_the_session_is_closed(
    service: "Service", collect: Collect
) -> None:
    created = service.create()
    session_id = created.session.session_id
    ack = service.upload(session_id, collect(created.policy))
    reply = service.adapt(session_id, 0, ack.batch.sha256)
    for _ in range(2):
        closed = service.stub.CloseSession(service_pb.CloseSessionRequest(session_id=session_id))
        assert closed.session.state == service_pb.SESSION_STATE_CLOSED
    assert service.get(session_id).session == closed.session

    theta = service.stub.GetPolicy(service_pb.GetPolicyRequest(session_id=session_id, round=0))
    first = service.stub.GetPolicy(service_pb.GetPolicyRequest(session_id=session_id, round=1))
    current = service.stub.GetPolicy(service_pb.GetPolicyRequest(session_id=session_id))
    assert theta.policy == created.policy
    assert not theta.HasField("report")
    assert first.policy == reply.policy
    assert first.report == reply.report
    assert current == first
    with service.refuses(session_id) as refusal:
        service.stub.GetPolicy(service_pb.GetPolicyRequest(session_id=session_id, round=2))
    assert refusal.code is grpc.StatusCode.NOT_FOUND


def test_a_report_has_the_share_of_each_trajectory(service: "Service", collect: Collect) -> None:
    created = service.create()
    session_id, policy = created.session.session_id, created.policy
    for index in range(2):
        parts = {}
        for seed, trajectories in enumerate((2, 3)):
            part = collect(policy, trajectories=trajectories, seed=seed)
            parts[service.upload(session_id, part, round_index=index).sha256] = part
        batch = service.get(session_id).session.batch
        reply = service.adapt(session_id, index, batch.sha256)
        assert [each.sha256 for each in reply.report.uploads] == sorted(parts)
        for each in reply.report.uploads:
            np.testing.assert_allclose(each.returns, [part.rewards.sum() for part in parts[each.sha256]], rtol=1e-5)
            assert len(each.shares) == len(each.returns)
        shares = [share for each in reply.report.uploads for share in each.shares]
        assert np.isclose(sum(shares), 1.0)
        assert np.ptp(shares) > 0
        assert service.adapt(session_id, index, batch.sha256).report == reply.report
        policy = reply.policy
    # Shares of earlier rounds are omitted: the message would grow too large.
    first, last = service.get(session_id).reports
    assert last == reply.report
    assert not first.uploads
    fetched = service.stub.GetPolicy(service_pb.GetPolicyRequest(session_id=session_id, round=1))
    assert len(fetched.report.uploads) == 2


def test_the_order_of_arrival_does_not_change_the_outcome(service: "Service", collect: Collect) -> None:
    outcomes = set()
    theta = service.create().policy
    parts = [collect(theta, trajectories=3, steps=5 + seed, seed=seed) for seed in range(4)]
    for order in ((0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0)):
        session_id = service.create().session.session_id
        for part in order:
            ack = service.upload(session_id, parts[part])
        assert (ack.batch.uploads, ack.batch.trajectories) == (4, 12)
        outcomes.add(service.adapt(session_id, 0, ack.batch.sha256).policy.policy_id)
    assert len(outcomes) == 1


def test_the_catalog_lists_each_version_and_version_0_is_the_newest(service: "Service") -> None:
    listed = service.meta_stub.ListMetaPolicies(meta_pb.ListMetaPoliciesRequest()).meta_policies
    assert [(each.name, each.version) for each in listed] == [("point-navigation", 1), ("point-navigation", 2)]
    newest = service.meta_stub.GetMetaPolicy(meta_pb.GetMetaPolicyRequest(name="point-navigation"))
    oldest = service.meta_stub.GetMetaPolicy(meta_pb.GetMetaPolicyRequest(name="point-navigation", version=1))
    assert newest.meta_policy == listed[1]
    assert oldest.meta_policy == listed[0]
    assert newest.policy.policy_id == newest.meta_policy.policy_id != oldest.policy.policy_id
    assert newest.meta_policy.environment.box.high == [0.1, 0.1]
    assert newest.meta_policy.parameter_count == 8 * 2 + 8 + 8 * 8 + 8 + 2 * 8 + 2 + 2
    assert service.create(meta_policy_version=1).policy == oldest.policy


def test_sessions_are_listed_newest_first_page_by_page(start: "Start") -> None:
    with start() as service:
        created = [service.create().session.session_id for _ in range(5)]
        listed, token, pages = [], "", 0
        while True:
            request = service_pb.ListSessionsRequest(page_size=2, page_token=token)
            page = service.stub.ListSessions(request)
            listed += [session.session_id for session in page.sessions]
            token, pages = page.next_page_token, pages + 1
            if not token:
                break
        assert listed == created[::-1]
        assert pages == 3


def test_an_expired_session_is_not_found_and_not_listed(start: "Start") -> None:
    with start() as service:
        kept = service.create().session
        lost = service.create(request_id="r", ttl=duration_pb2.Duration(nanos=1000)).session
        assert lost.expire_time.ToMicroseconds() - lost.create_time.ToMicroseconds() == 1
        with service.refuses() as refusal:
            service.get(lost.session_id)
        assert refusal.code is grpc.StatusCode.NOT_FOUND
        assert refusal.details["ResourceInfo"].resource_name == lost.session_id
        assert list(service.stub.ListSessions(service_pb.ListSessionsRequest()).sessions) == [kept]
        assert service.create(request_id="r").session.session_id != lost.session_id
