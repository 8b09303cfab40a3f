"""Repeated calls, in sequence or concurrent, have one effect and equal replies."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import pytest

from thetaprime import models, wire
from thetaprime.v1 import adaptation_service_pb2 as service_pb

if TYPE_CHECKING:
    from tests.support.server.service import Configure, Service, Start

Collect = Callable[..., list[wire.Trajectory]]


def content(message: service_pb.AdaptResponse) -> bytes:
    return message.SerializeToString(deterministic=True)


def test_a_repeated_create_session_returns_the_same_session(service: "Service", collect: Collect) -> None:
    first = service.create(request_id="again")
    assert service.create(request_id="again") == first
    service.upload(first.session.session_id, collect(first.policy))
    again = service.create(request_id="again")
    assert again.session.session_id == first.session.session_id
    assert again.session.batch.uploads == 1
    assert again.policy == first.policy


def test_concurrent_create_sessions_create_one_session(service: "Service") -> None:
    with ThreadPoolExecutor(8) as callers:
        replies = list(callers.map(lambda _: service.create(request_id="at-once"), range(8)))
    assert all(reply == replies[0] for reply in replies)


def test_a_repeated_upload_counts_once(service: "Service", collect: Collect) -> None:
    created = service.create()
    session_id = created.session.session_id
    first, second = collect(created.policy), collect(created.policy, seed=1)
    ack = service.upload(session_id, first, upload_id="u")
    later = service.upload(session_id, second, upload_id="v")
    assert (ack.upload_id, ack.sha256) == ("u", wire.sha256_hex(wire.pack(first)))
    assert ack.batch.sha256 == wire.batch_digest([ack.sha256])
    assert later.batch.sha256 == wire.batch_digest([ack.sha256, later.sha256])
    assert service.upload(session_id, first, upload_id="u") == ack
    assert service.get(session_id).session.batch == later.batch

    policy = service.adapt(session_id, 0, later.batch.sha256).policy
    assert service.upload(session_id, first, upload_id="u") == ack
    assert service.get(session_id).session.batch.uploads == 0
    service.upload(session_id, collect(policy), round_index=1, upload_id="w")
    service.stub.CloseSession(service_pb.CloseSessionRequest(session_id=session_id))
    assert service.upload(session_id, second, upload_id="v") == later


def test_concurrent_equal_uploads_count_once(service: "Service", collect: Collect) -> None:
    created = service.create()
    session_id, trajectories = created.session.session_id, collect(created.policy)
    with ThreadPoolExecutor(8) as callers:
        acks = list(callers.map(lambda _: service.upload(session_id, trajectories, upload_id="u"), range(8)))
    assert all(ack == acks[0] for ack in acks)
    assert service.get(session_id).session.batch == acks[0].batch
    assert acks[0].batch.uploads == 1


def test_concurrent_uploads_of_several_collectors_all_count(service: "Service", collect: Collect) -> None:
    created = service.create()
    session_id = created.session.session_id
    with ThreadPoolExecutor(8) as callers:
        list(callers.map(lambda seed: service.upload(session_id, collect(created.policy, seed=seed)), range(16)))
    batch = service.get(session_id).session.batch
    assert (batch.uploads, batch.trajectories, batch.steps) == (16, 64, 512)


def test_upload_ids_belong_to_their_session(service: "Service", collect: Collect) -> None:
    for seed in range(2):
        created = service.create()
        service.upload(created.session.session_id, collect(created.policy, seed=seed), upload_id="u")
        assert service.get(created.session.session_id).session.batch.uploads == 1


def test_the_reply_to_a_repeated_adapt_is_byte_identical(service: "Service", collect: Collect) -> None:
    created = service.create()
    session_id = created.session.session_id
    ack = service.upload(session_id, collect(created.policy))
    first = service.adapt(session_id, 0, ack.batch.sha256)
    assert content(service.adapt(session_id, 0, ack.batch.sha256)) == content(first)
    again = service.upload(session_id, collect(first.policy), round_index=1)
    assert content(service.adapt(session_id, 0, ack.batch.sha256)) == content(first)
    service.adapt(session_id, 1, again.batch.sha256)
    service.stub.CloseSession(service_pb.CloseSessionRequest(session_id=session_id))
    assert content(service.adapt(session_id, 0, ack.batch.sha256)) == content(first)
    assert service.get(session_id).session.round == 2


def test_concurrent_adapts_take_one_step(service: "Service", collect: Collect) -> None:
    created = service.create()
    session_id = created.session.session_id
    ack = service.upload(session_id, collect(created.policy))
    with ThreadPoolExecutor(8) as callers:
        replies = list(callers.map(lambda _: service.adapt(session_id, 0, ack.batch.sha256), range(8)))
    assert len({content(reply) for reply in replies}) == 1
    assert service.get(session_id).session.round == 1


def test_two_servers_on_one_store_take_one_step(
    configure: "Configure", start: "Start", collect: Collect, connect: Callable[[str], "Service"]
) -> None:
    store = configure().store
    with start(store=store) as one, start(store=store) as other:
        created = one.create(request_id="shared")
        assert other.create(request_id="shared") == created
        session_id = created.session.session_id
        one.upload(session_id, collect(created.policy), upload_id="u")
        ack = other.upload(session_id, collect(created.policy, seed=1), upload_id="v")
        assert ack.batch.uploads == 2
        with ThreadPoolExecutor(8) as callers:
            replies = list(callers.map(lambda n: (one, other)[n % 2].adapt(session_id, 0, ack.batch.sha256), range(8)))
        assert len({content(reply) for reply in replies}) == 1
        assert one.get(session_id) == other.get(session_id)
        assert one.get(session_id).session.round == 1


@pytest.mark.usefixtures("no_precomputation")
def test_an_upload_during_the_step_refuses_the_step(
    service: "Service", collect: Collect, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = service.create()
    session_id = created.session.session_id
    ack = service.upload(session_id, collect(created.policy))

    def interrupted(*args: object, **kwargs: object) -> object:
        service.upload(session_id, collect(created.policy, seed=1), upload_id="late")
        return models.adapt_step(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("thetaprime.models.verdict.session_step.adapt_step", interrupted)
    with service.refuses() as refusal:
        service.adapt(session_id, 0, ack.batch.sha256)
    monkeypatch.undo()
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BATCH_CHANGED")
    session = service.get(session_id).session
    assert (session.round, session.batch.uploads) == (0, 2)
    assert service.adapt(session_id, 0, session.batch.sha256).report.trajectories == 8
