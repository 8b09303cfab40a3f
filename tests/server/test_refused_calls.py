"""Every refusal of a call other than an upload: its status and its details; the session does not change."""

import threading
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import duration_pb2

from thetaprime import wire
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import meta_policy_service_pb2 as meta_pb

if TYPE_CHECKING:
    from tests.support.server.service import Service, Start

Collect = Callable[..., list[wire.Trajectory]]
CODE = grpc.StatusCode


def scale(value: float) -> service_pb.SessionOptions:
    return service_pb.SessionOptions(step_size_scale=value)


@pytest.mark.parametrize(("fields", "field"), [
    ({"request_id": ""}, "request_id"),
    ({"request_id": "r" * 129}, "request_id"),
    ({"meta_policy_version": -1}, "meta_policy_version"),
    ({"options": scale(0.0)}, "options.step_size_scale"),
    ({"options": scale(-1.0)}, "options.step_size_scale"),
    ({"options": scale(float("nan"))}, "options.step_size_scale"),
    ({"options": scale(float("inf"))}, "options.step_size_scale"),
    ({"ttl": duration_pb2.Duration()}, "ttl"),
    ({"ttl": duration_pb2.Duration(seconds=-1)}, "ttl"),
    ({"ttl": duration_pb2.Duration(seconds=10**9)}, "ttl"),
    ({"ttl": duration_pb2.Duration(seconds=2**62)}, "ttl"),
])  # fmt: skip
def test_a_session_with_a_bad_argument_is_refused(service: "Service", fields: dict[str, Any], field: str) -> None:
    with service.refuses() as refusal:
        service.create(**fields)
    assert (refusal.code, refusal.field) == (CODE.INVALID_ARGUMENT, field)


@pytest.mark.parametrize(
    ("name", "version"), [("no-such", 0), ("", 0), ("point-navigation", 3), ("point-navigation", 2**62)]
)
def test_an_unknown_meta_policy_is_not_found(service: "Service", name: str, version: int) -> None:
    with service.refuses() as refusal:
        service.create(meta_policy=name, meta_policy_version=version)
    assert refusal.code is CODE.NOT_FOUND
    assert refusal.details["ResourceInfo"].resource_name == (f"{name}@{version}" if version else name)
    with service.refuses() as refusal:
        service.meta_stub.GetMetaPolicy(meta_pb.GetMetaPolicyRequest(name=name, version=version))
    assert refusal.code is CODE.NOT_FOUND


def test_a_negative_meta_policy_version_is_refused(service: "Service") -> None:
    with service.refuses() as refusal:
        service.meta_stub.GetMetaPolicy(meta_pb.GetMetaPolicyRequest(name="point-navigation", version=-1))
    assert (refusal.code, refusal.field) == (CODE.INVALID_ARGUMENT, "version")


@pytest.mark.parametrize("session_id", ["", "x", "s" * 10_000, uuid.UUID(int=0).hex])
def test_an_unknown_session_is_not_found_by_any_call(service: "Service", session_id: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: service.get(session_id),
        lambda: service.adapt(session_id, 0, ""),
        lambda: service.stub.GetPolicy(service_pb.GetPolicyRequest(session_id=session_id)),
        lambda: service.stub.CloseSession(service_pb.CloseSessionRequest(session_id=session_id)),
    ]
    for call in calls:
        with service.refuses() as refusal:
            call()
        assert refusal.code is CODE.NOT_FOUND
        assert len(refusal.message) < 200


@pytest.mark.parametrize(("fields", "field"), [
    ({"page_size": -1}, "page_size"),
    ({"page_token": "nonsense"}, "page_token"),
    ({"page_token": "A" * 5000}, "page_token"),
    ({"page_token": "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5LmE="}, "page_token"),
])  # fmt: skip
def test_an_invalid_page_is_refused(service: "Service", fields: dict[str, Any], field: str) -> None:
    with service.refuses() as refusal:
        service.stub.ListSessions(service_pb.ListSessionsRequest(**fields))
    assert (refusal.code, refusal.field) == (CODE.INVALID_ARGUMENT, field)


@pytest.mark.parametrize("round_index", [-1, 0, 2, 2**63 - 1, -(2**63)])
def test_adapt_at_another_round_is_aborted_with_the_current_round(
    service: "Service", collect: Collect, round_index: int
) -> None:
    created = service.create()
    session_id = created.session.session_id
    ack = service.upload(session_id, collect(created.policy))
    policy = service.adapt(session_id, 0, ack.batch.sha256).policy
    batch = service.upload(session_id, collect(policy), round_index=1).batch
    with service.refuses(session_id) as refusal:
        service.adapt(session_id, round_index, batch.sha256)
    assert (refusal.code, refusal.reason) == (CODE.ABORTED, "ROUND_MISMATCH")
    assert refusal.metadata == {"round": "1"}


def test_adapt_on_another_batch_is_refused_with_the_current_batch(service: "Service", collect: Collect) -> None:
    created = service.create()
    session_id = created.session.session_id
    first = service.upload(session_id, collect(created.policy)).batch
    second = service.upload(session_id, collect(created.policy, seed=1)).batch
    for digest in (first.sha256, "", "f" * 64):
        with service.refuses(session_id) as refusal:
            service.adapt(session_id, 0, digest)
        assert (refusal.code, refusal.reason) == (CODE.FAILED_PRECONDITION, "BATCH_CHANGED")
        assert refusal.metadata == {"batch_sha256": second.sha256}


def test_adapt_on_an_empty_batch_is_refused(service: "Service") -> None:
    session_id = service.create().session.session_id
    with service.refuses(session_id) as refusal:
        service.adapt(session_id, 0, "")
    assert (refusal.code, refusal.reason) == (CODE.FAILED_PRECONDITION, "EMPTY_BATCH")


def test_a_closed_session_refuses_a_step(service: "Service", collect: Collect) -> None:
    created = service.create()
    session_id = created.session.session_id
    ack = service.upload(session_id, collect(created.policy))
    service.stub.CloseSession(service_pb.CloseSessionRequest(session_id=session_id))
    with service.refuses(session_id) as refusal:
        service.adapt(session_id, 0, ack.batch.sha256)
    assert (refusal.code, refusal.reason) == (CODE.FAILED_PRECONDITION, "SESSION_CLOSED")


# The first scale makes the parameters infinite; the second keeps them finite, and makes the outputs infinite.
@pytest.mark.parametrize(("factor", "named"), [(1e300, "parameter "), (1e38, "kl_divergence")])
def test_a_step_that_is_not_finite_leaves_the_session_at_its_round(
    service: "Service", collect: Collect, factor: float, named: str
) -> None:
    created = service.create(options=scale(factor))
    session_id = created.session.session_id
    ack = service.upload(session_id, collect(created.policy))
    with service.refuses(session_id) as refusal:
        service.adapt(session_id, 0, ack.batch.sha256)
    assert (refusal.code, refusal.reason) == (CODE.FAILED_PRECONDITION, "NON_FINITE_STEP")
    assert refusal.message.startswith(named)
    assert service.get(session_id).session.policy_id == created.policy.policy_id


def test_a_request_id_with_other_arguments_is_refused(service: "Service") -> None:
    session_id = service.create(request_id="reused").session.session_id
    for fields in ({"meta_policy_version": 1}, {"options": scale(2.0)}, {"ttl": duration_pb2.Duration(seconds=9)}):
        with service.refuses(session_id) as refusal:
            service.create(request_id="reused", **fields)
        assert (refusal.code, refusal.reason) == (CODE.ALREADY_EXISTS, "REQUEST_ID_REUSED")


LIMITS: list[tuple[str, dict[str, int], str]] = [
    ("bytes of an upload", {"max_upload_bytes": 1000}, "UPLOAD_TOO_LARGE"),
    ("trajectories of an upload", {"max_upload_trajectories": 3}, "TOO_MANY_TRAJECTORIES"),
    ("steps of an upload", {"max_upload_steps": 31}, "TOO_MANY_STEPS"),
]


@pytest.mark.parametrize(("limits", "reason"), [case[1:] for case in LIMITS], ids=[case[0] for case in LIMITS])
def test_an_upload_beyond_a_limit_is_refused(
    start: "Start", collect: Collect, limits: dict[str, int], reason: str
) -> None:
    with start(**limits) as service:
        created = service.create()
        session_id = created.session.session_id
        with service.refuses(session_id) as refusal:
            service.upload(session_id, collect(created.policy, trajectories=4, steps=8))
        assert (refusal.code, refusal.reason) == (CODE.RESOURCE_EXHAUSTED, reason)
        assert refusal.metadata["limit"] == str(next(iter(limits.values())))
        assert "QuotaFailure" in refusal.details
        assert "RetryInfo" not in refusal.details
        service.upload(session_id, collect(created.policy, trajectories=3, steps=2))


@pytest.mark.parametrize(
    "limits", [{"max_round_uploads": 2}, {"max_round_trajectories": 8}, {"max_round_steps": 64}], ids=str
)
def test_a_full_round_refuses_an_upload(start: "Start", collect: Collect, limits: dict[str, int]) -> None:
    with start(**limits) as service:
        created = service.create()
        session_id = created.session.session_id
        for seed in range(2):
            ack = service.upload(session_id, collect(created.policy, seed=seed))
        with service.refuses(session_id) as refusal:
            service.upload(session_id, collect(created.policy, seed=2))
        assert (refusal.code, refusal.reason) == (CODE.RESOURCE_EXHAUSTED, "ROUND_FULL")
        policy = service.adapt(session_id, 0, ack.batch.sha256).policy
        service.upload(session_id, collect(policy), round_index=1)


def test_the_number_of_open_sessions_is_limited(start: "Start") -> None:
    with start(max_sessions=2) as service:
        first = service.create().session.session_id
        service.create(request_id="second")
        with service.refuses(first) as refusal:
            service.create()
        assert (refusal.code, refusal.reason) == (CODE.RESOURCE_EXHAUSTED, "TOO_MANY_SESSIONS")
        service.create(request_id="second")
        service.stub.CloseSession(service_pb.CloseSessionRequest(session_id=first))
        service.create()


def test_concurrent_uploads_share_a_memory_budget(
    start: "Start", collect: Collect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thetaprime.server.scheduling.memory_budget._PATIENCE_SECONDS", 0.1)
    with start(max_upload_bytes=4000, max_inflight_bytes=4000) as service:
        created = service.create()
        session_id = created.session.session_id
        small = list(wire.iter_upload(session_id, "a", 0, wire.pack(collect(created.policy)), 4, 32))
        sent, over = threading.Event(), threading.Event()

        def slow() -> Iterator[service_pb.UploadTrajectoriesRequest]:
            yield small[0]
            sent.set()
            over.wait(60)
            yield from small[1:]

        call = service.stub.UploadTrajectories.future(slow())
        assert sent.wait(60)
        # The header is on its way: retry until it has reserved the budget.
        header = service_pb.UploadHeader(session_id=session_id, upload_id="b", payload_bytes=4000)
        code = CODE.INVALID_ARGUMENT
        while code is CODE.INVALID_ARGUMENT:
            with service.refuses(session_id) as refusal:
                service.send(iter([service_pb.UploadTrajectoriesRequest(header=header)]))
            code = refusal.code
        assert code is CODE.RESOURCE_EXHAUSTED
        assert refusal.retry_delay > 0
        over.set()
        assert call.result().batch.uploads == 1
        assert service.send(wire.iter_upload(session_id, "c", 0, wire.pack(collect(created.policy)), 4, 32))


def test_a_stalled_upload_is_ended(start: "Start") -> None:
    with start(upload_idle=0.05) as service:
        session_id = service.create().session.session_id
        over = threading.Event()

        def stalled() -> Iterator[service_pb.UploadTrajectoriesRequest]:
            header = service_pb.UploadHeader(session_id=session_id, upload_id="u", payload_bytes=10)
            yield service_pb.UploadTrajectoriesRequest(header=header)
            over.wait(60)

        with service.refuses(session_id) as refusal:
            service.send(stalled())
        over.set()
        assert (refusal.code, refusal.reason) == (CODE.DEADLINE_EXCEEDED, "UPLOAD_STALLED")


@pytest.mark.slow
def test_a_trickling_upload_is_ended_and_releases_its_memory(start: "Start", collect: Collect) -> None:
    size = 4096
    with start(upload_idle=30, upload_seconds=1, max_upload_bytes=size, max_inflight_bytes=2 * size) as service:
        created = service.create()
        session_id, other = created.session.session_id, service.create().session.session_id
        arriving, over = threading.Event(), threading.Event()

        def trickling() -> Iterator[service_pb.UploadTrajectoriesRequest]:
            header = service_pb.UploadHeader(session_id=session_id, upload_id="u", payload_bytes=size)
            yield service_pb.UploadTrajectoriesRequest(header=header)
            while not over.wait(0.02):
                yield service_pb.UploadTrajectoriesRequest(chunk=service_pb.UploadChunk(data=b"."))
                arriving.set()

        # The budget holds two of these uploads: the third needs the memory that the others released.
        for seed in range(3):
            call: Any = service.stub.UploadTrajectories.future(trickling(), timeout=60)
            assert arriving.wait(60)
            service.upload(other, collect(created.policy, seed=seed))
            with service.refuses(session_id) as refusal:
                call.result()
            assert (refusal.code, refusal.reason) == (CODE.DEADLINE_EXCEEDED, "UPLOAD_STALLED")
            assert "within 1 s" in refusal.message
        over.set()
