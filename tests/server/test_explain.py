"""Explaining a round: the part of each time step in the step."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
import torch

from thetaprime import models, wire
from thetaprime.models.verdict import at_discount
from thetaprime.server.adaptation.explain import _pushes
from thetaprime.v1 import adaptation_service_pb2 as service_pb

if TYPE_CHECKING:
    from tests.support.server.service import Service

Collect = Callable[..., list[wire.Trajectory]]


def explain(service: "Service", session_id: str, **fields: int) -> service_pb.ExplainRoundResponse:
    return service.stub.ExplainRound(service_pb.ExplainRoundRequest(session_id=session_id, **fields))


def array(message: service_pb.ExplainedTrajectory, name: str) -> np.ndarray:
    return wire.array_from_message(getattr(message, name), name)


def taken(service: "Service", collect: Collect, trajectories: int = 6) -> tuple[str, list[wire.Trajectory]]:
    """Takes a round of two uploads."""
    created = service.create()
    session_id = created.session.session_id
    collected = collect(created.policy, trajectories=trajectories, seed=1)
    service.upload(session_id, collected[:2])
    ack = service.upload(session_id, collected[2:])
    service.adapt(session_id, 0, ack.batch.sha256)
    return session_id, collected


def test_the_pushes_are_the_parts_of_the_shares_of_the_report(service: "Service", collect: Collect) -> None:
    session_id, collected = taken(service, collect)
    reply = explain(service, session_id)
    assert reply.report == service.stub.GetPolicy(service_pb.GetPolicyRequest(session_id=session_id)).report
    assert reply.total == len(reply.trajectories) == 6
    shares = {each.sha256: list(each.shares) for each in reply.report.uploads}
    assert sorted(map(len, shares.values())) == [2, 4]
    for each in reply.trajectories:
        assert each.share == pytest.approx(shares[each.sha256][each.trajectory], abs=1e-9)
        assert array(each, "pushes").sum() == pytest.approx(each.share, abs=1e-5)
    found = [abs(each.share) for each in reply.trajectories]
    assert found == sorted(found, reverse=True)
    by_content = {wire.sha256_hex(wire.pack(part)): part for part in (collected[:2], collected[2:])}
    for each in reply.trajectories:
        trajectory = by_content[each.sha256][each.trajectory]
        np.testing.assert_array_equal(array(each, "rewards"), trajectory.rewards)
        whole = np.concatenate([trajectory.observations, trajectory.final_observation[None]])
        np.testing.assert_array_equal(array(each, "observations"), whole[:, :2])


def test_the_push_of_a_time_step_is_what_its_gradient_adds_to_the_step(
    service: "Service", collect: Collect, zoo: Path
) -> None:
    """The gradient of one time step's loss alone, by autograd, along the direction of the whole step."""
    session_id, _ = taken(service, collect, trajectories=3)
    reply = explain(service, session_id)
    meta_policy = models.load_meta_policy(zoo / "point-navigation" / "2")
    policy, adaptation = meta_policy.policy, meta_policy.manifest.adaptation
    uploads = service.get(session_id).reports[0].uploads
    order = {(each.sha256, n): None for each in uploads for n in range(len(each.shares))}
    by_name = {(each.sha256, each.trajectory): each for each in reply.trajectories}
    pushes = np.concatenate([array(by_name[name], "pushes") for name in order])
    parameters = {name: value.clone().requires_grad_() for name, value in meta_policy.parameters.items()}
    batch = _batch(service, session_id, collect)
    advantage = models.inner_advantages(policy, batch, adaptation)
    log_prob = policy.log_prob(policy.outputs(parameters, batch.observations), batch.actions)
    losses = -log_prob * advantage / len(advantage)
    names = [name for name in parameters if adaptation.step_size(name)]
    moving = [parameters[name] for name in names]
    whole = torch.autograd.grad(losses.sum(), moving, retain_graph=True, allow_unused=True)
    direction = [
        None if value is None else adaptation.step_size(name) * value for name, value in zip(names, whole, strict=True)
    ]
    total = sum(float((g * d).sum()) for g, d in zip(whole, direction, strict=True) if g is not None)
    for t in (0, 3, len(losses) - 1):
        own = torch.autograd.grad(losses[t], moving, retain_graph=True, allow_unused=True)
        along = sum(float((g * d).sum()) for g, d in zip(own, direction, strict=True) if g is not None)
        assert pushes[t] == pytest.approx(along / total, abs=1e-4)


def _batch(service: "Service", session_id: str, collect: Collect) -> models.TrajectoryBatch:
    """The round of `taken`, in the order of the server: uploads sorted by digest."""
    created = service.stub.GetPolicy(service_pb.GetPolicyRequest(session_id=session_id, round=0))
    collected = collect(created.policy, trajectories=3, seed=1)
    parts = sorted((collected[:2], collected[2:]), key=lambda part: wire.sha256_hex(wire.pack(part)))
    trajectories = [each for part in parts for each in part]
    return models.TrajectoryBatch.concatenate(
        [each.observations for each in trajectories],
        [each.actions for each in trajectories],
        [each.rewards for each in trajectories],
        [each.terminated for each in trajectories],
        [each.final_observation for each in trajectories],
    )


def test_a_reply_has_as_many_trajectories_and_numbers_as_asked_for(service: "Service", collect: Collect) -> None:
    session_id, _ = taken(service, collect)
    reply = explain(service, session_id, max_trajectories=2, max_dimensions=1)
    assert (reply.total, len(reply.trajectories)) == (6, 2)
    whole = explain(service, session_id)
    assert [each.share for each in reply.trajectories] == [each.share for each in whole.trajectories][:2]
    assert all(array(each, "observations").shape == (9, 1) for each in reply.trajectories)
    for field in ("max_trajectories", "max_dimensions"):
        with service.refuses(session_id) as refusal:
            explain(service, session_id, **{field: -1})
        assert (refusal.code, refusal.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)


def test_uploads_that_no_step_was_taken_from_are_explained_without_a_report(
    service: "Service", collect: Collect
) -> None:
    session_id, _ = taken(service, collect)
    with service.refuses(session_id) as refusal:
        explain(service, session_id, round=1)
    assert refusal.reason == "NO_UPLOADS"
    policy = service.stub.GetPolicy(service_pb.GetPolicyRequest(session_id=session_id)).policy
    service.upload(session_id, collect(policy, trajectories=3, seed=2), round_index=1)
    before = service.get(session_id)
    reply = explain(service, session_id, round=1)
    assert (reply.HasField("report"), reply.total) == (False, 3)
    assert sum(each.share for each in reply.trajectories) == pytest.approx(1.0)
    assert service.get(session_id) == before
    for index in (-1, 2, 2**62):
        with service.refuses(session_id) as refusal:
            explain(service, session_id, round=index)
        assert refusal.code is grpc.StatusCode.NOT_FOUND


def test_rewards_without_signal_push_nothing(service: "Service", collect: Collect) -> None:
    created = service.create()
    session_id = created.session.session_id
    flat = [
        dataclasses.replace(each, rewards=np.zeros_like(each.rewards))
        for each in collect(created.policy, trajectories=3, seed=1)
    ]
    service.upload(session_id, flat)
    reply = explain(service, session_id, round=0)
    assert all(not array(each, "pushes").any() for each in reply.trajectories)


def test_the_pushes_are_those_of_the_session_s_horizon(zoo: Path) -> None:
    meta_policy = models.load_meta_policy(zoo / "point-navigation" / "2")
    policy, theta = meta_policy.policy, meta_policy.parameters
    rng = np.random.default_rng(0)
    batch = models.TrajectoryBatch.concatenate(
        [rng.normal(size=(30, 2)).astype(np.float32) for _ in range(4)],
        [rng.normal(size=(30, 2)).astype(np.float32) for _ in range(4)],
        [rng.normal(size=30).astype(np.float32) for _ in range(4)],
        [False] * 4,
        [np.zeros(2, np.float32)] * 4,
    )
    inputs: Any = SimpleNamespace(parameters=theta, trajectories=batch)
    entry: Any = SimpleNamespace(meta_policy=meta_policy)
    for discount in (None, 1.0):
        adaptation = at_discount(meta_policy.manifest.adaptation, discount)
        step = models.adapt_step(policy, theta, batch, adaptation, step=0, step_sizes=meta_policy.step_sizes)
        shares = models.trajectory_contributions(policy, theta, batch, step)
        pushes = _pushes(entry, inputs, 0, discount)
        assert [each.sum() for each in pushes] == pytest.approx(shares.tolist(), abs=1e-9)
