"""What one tenant may have: refused beyond it, for itself alone, with how long to wait where waiting helps."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from thetaprime import wire
from thetaprime.server import running_server
from thetaprime.server.errors import BusyError
from thetaprime.server.scheduling.rate_limit import RateLimit
from thetaprime.v1 import adaptation_service_pb2 as service_pb

if TYPE_CHECKING:
    from tests.support.server.service import Configure, Connect, Refusal, Service, WriteTokens

Collect = Callable[..., list[wire.Trajectory]]
Tenants = Callable[..., tuple["Service", "Service"]]
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture
def tenants(
    configure: "Configure", connect: "Connect", write_tokens: "WriteTokens", tmp_path: Path
) -> Iterator[Tenants]:
    """Starts a server where alice has the limits that are given and bob has none; gives a client of each."""
    with ExitStack() as running:

        def start(limits: str, **fields: object) -> tuple["Service", "Service"]:
            more = f"[tenants.alice]\n{limits}\n"
            file = write_tokens(tmp_path / "tokens.toml", {"a": "alice", "b": "bob"}, more)
            address = running.enter_context(running_server(configure(tokens=file, **fields)))
            return running.enter_context(connect(address, "a")), running.enter_context(connect(address, "b"))

        yield start


def assert_no_use_to_wait(refusal: "Refusal", reason: str, limit: int) -> None:
    assert (refusal.code, refusal.reason) == (EXHAUSTED, reason)
    assert refusal.metadata["limit"] == str(limit)
    assert "QuotaFailure" in refusal.details
    assert "RetryInfo" not in refusal.details


def test_open_sessions_of_a_tenant(tenants: Tenants) -> None:
    alice, bob = tenants("max_sessions = 2")
    first = alice.create().session.session_id
    alice.create(request_id="second")
    with alice.refuses(first) as refusal:
        alice.create()
    assert_no_use_to_wait(refusal, "TENANT_SESSIONS", 2)
    alice.create(request_id="second")
    for _ in range(3):
        bob.create()
    alice.stub.CloseSession(service_pb.CloseSessionRequest(session_id=first))
    alice.create()


def test_steps_of_a_tenant_over_all_its_sessions_and_rounds(tenants: Tenants, collect: Collect) -> None:
    alice, bob = tenants("max_steps = 70")
    for service in (alice, bob):
        first, second = service.create(), service.create()
        batch = service.upload(first.session.session_id, collect(first.policy, steps=8)).batch
        service.adapt(first.session.session_id, 0, batch.sha256)
        service.upload(second.session.session_id, collect(second.policy, steps=8))
    third = alice.create()
    session_id = third.session.session_id
    with alice.refuses(session_id) as refusal:
        alice.upload(session_id, collect(third.policy, trajectories=1, steps=7))
    assert_no_use_to_wait(refusal, "TENANT_STEPS", 70)
    assert refusal.metadata["came"] == "71"
    alice.upload(session_id, collect(third.policy, trajectories=1, steps=6))
    bobs = bob.create()
    bob.upload(bobs.session.session_id, collect(bobs.policy, steps=8))


def test_bytes_of_a_tenant_are_those_that_it_sent_whoever_else_sent_them(tenants: Tenants, collect: Collect) -> None:
    alice, bob = tenants("max_bytes = 2000")
    trajectories = collect(bob.create().policy)
    size = len(wire.pack(trajectories))
    assert 1000 < size < 2000
    bob.upload(bob.create().session.session_id, trajectories)
    alice.upload(alice.create().session.session_id, trajectories, upload_id="u")
    for _ in range(2):
        session_id = alice.create().session.session_id
        with alice.refuses(session_id) as refusal:
            alice.upload(session_id, trajectories)
        assert_no_use_to_wait(refusal, "TENANT_BYTES", 2000)
        assert refusal.metadata["came"] == str(2 * size)
        bob.upload(bob.create().session.session_id, trajectories)


def test_policies_count_as_stored_bytes(tenants: Tenants, collect: Collect) -> None:
    alice, _ = tenants("max_bytes = 3000")
    created = alice.create()
    session_id = created.session.session_id
    batch = alice.upload(session_id, collect(created.policy)).batch
    policy = alice.adapt(session_id, 0, batch.sha256).policy
    assert len(policy.onnx) > 1500
    with alice.refuses(session_id) as refusal:
        alice.upload(session_id, collect(policy), round_index=1)
    assert_no_use_to_wait(refusal, "TENANT_BYTES", 3000)


def test_adaptations_of_a_tenant_in_a_second(tenants: Tenants, collect: Collect) -> None:
    alice, bob = tenants("max_adaptations_per_second = 0.01")
    for service in (alice, bob):
        created = service.create()
        session_id = created.session.session_id
        batch = service.upload(session_id, collect(created.policy)).batch
        policy = service.adapt(session_id, 0, batch.sha256).policy
        again = service.upload(session_id, collect(policy), round_index=1).batch
        if service is bob:
            service.adapt(session_id, 1, again.sha256)
            continue
        with service.refuses(session_id) as refusal:
            service.adapt(session_id, 1, again.sha256)
        assert refusal.code is EXHAUSTED
        assert 0 < refusal.retry_delay <= 100
        # What was taken before is given out again at any pace.
        assert service.adapt(session_id, 0, batch.sha256).policy == policy


def test_the_settings_limit_whom_the_file_does_not(tenants: Tenants) -> None:
    alice, bob = tenants("max_sessions = 2", max_tenant_sessions=1)
    alice.create()
    alice.create()
    bob.create()
    with bob.refuses() as refusal:
        bob.create()
    assert_no_use_to_wait(refusal, "TENANT_SESSIONS", 1)


@pytest.mark.parametrize(("rate", "burst"), [(4.0, 4), (0.25, 1), (1.5, 1)])
def test_the_pace_is_the_rate_in_the_mean_and_a_second_s_worth_at_once(rate: float, burst: int) -> None:
    now = 0.0
    limit = RateLimit(lambda _: rate, clock=lambda: now)

    def taken() -> int:
        for count in range(1000):
            try:
                limit.take("t")
            except BusyError as error:
                delay = error.details[0].retry_delay.ToNanoseconds() / 1e9  # type: ignore[attr-defined]
                assert 0 < delay <= 1 / rate + 1e-6
                return count
        raise AssertionError("without a limit")

    assert taken() == burst
    total, seconds = 0, 400
    for _ in range(seconds * 4):
        now += 0.25
        total += taken()
    assert abs(total - seconds * rate) <= 1
    limit.take("another")
    now += 1000.0
    assert taken() == burst


def test_who_waits_as_long_as_it_is_told_is_served() -> None:
    now = 0.0
    limit = RateLimit(lambda _: 3.0, clock=lambda: now)
    for _ in range(3):
        limit.take("t")
    with pytest.raises(BusyError) as caught:
        limit.take("t")
    now += caught.value.details[0].retry_delay.ToNanoseconds() / 1e9 + 1e-9  # type: ignore[attr-defined]
    limit.take("t")


def test_no_limit_is_no_limit() -> None:
    limit = RateLimit(lambda _: None)
    for _ in range(10_000):
        limit.take("t")
