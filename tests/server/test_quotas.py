"""A call beyond a quota is refused, for its tenant only, with a time to retry where waiting helps."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.support.server.supervised import until
from thetaprime import wire
from thetaprime.server import running_server
from thetaprime.server.errors import BusyError
from thetaprime.server.scheduling.rate_limit import RateLimit
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import meta_policy_service_pb2 as meta_pb

if TYPE_CHECKING:
    from tests.support.server.service import Configure, Connect, Refusal, Service, WriteTokens

Collect = Callable[..., list[wire.Trajectory]]
Tenants = Callable[..., tuple["Service", "Service"]]
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture
def tenants(
    configure: "Configure", connect: "Connect", write_tokens: "WriteTokens", tmp_path: Path
) -> Iterator[Tenants]:
    """Starts a server where alice has the given limits and bob has none; returns a client of each."""
    with ExitStack() as running:

        def start(limits: str, **fields: object) -> tuple["Service", "Service"]:
            more = f"[tenants.alice]\n{limits}\n"
            file = write_tokens(tmp_path / "tokens.toml", {"a": "alice", "b": "bob"}, more)
            address = running.enter_context(running_server(configure(tokens=file, **fields)))
            return running.enter_context(connect(address, "a")), running.enter_context(connect(address, "b"))

        yield start


def stored_bytes(store: Path, tenant: str) -> int:
    """What a tenant has stored."""
    with closing(sqlite3.connect(store / "thetaprime.sqlite3")) as database:
        row = database.execute("SELECT bytes FROM usage WHERE tenant = ?", (tenant,)).fetchone()
    return int(row[0]) if row else 0


def assert_no_retry(refusal: "Refusal", reason: str, limit: int) -> None:
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
    assert_no_retry(refusal, "TENANT_SESSIONS", 2)
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
    assert_no_retry(refusal, "TENANT_STEPS", 70)
    assert refusal.metadata["came"] == "71"
    alice.upload(session_id, collect(third.policy, trajectories=1, steps=6))
    bobs = bob.create()
    bob.upload(bobs.session.session_id, collect(bobs.policy, steps=8))


def test_bytes_count_for_each_tenant_that_sent_them(tenants: Tenants, collect: Collect, tmp_path: Path) -> None:
    alice, bob = tenants("", store=tmp_path)
    trajectories = collect(bob.create().policy)
    bob.upload(bob.create().session.session_id, trajectories)
    before = stored_bytes(tmp_path, "alice")
    for number in range(1, 3):
        alice.upload(alice.create().session.session_id, trajectories)
        added = stored_bytes(tmp_path, "alice") - before
        assert added > number * len(wire.pack(trajectories))


def test_what_is_admitted_can_be_adapted_within_the_bytes(tenants: Tenants, collect: Collect, tmp_path: Path) -> None:
    limit = 100_000
    alice, bob = tenants(f"max_bytes = {limit}", store=tmp_path)
    # Each upload has a few hundred bytes, and each policy ten times as many.
    batches: dict[str, str] = {}
    while True:
        created = alice.create()
        session_id = created.session.session_id
        try:
            batches[session_id] = alice.upload(session_id, collect(created.policy, 1, 2)).batch.sha256
        except grpc.RpcError:
            break
    with alice.refuses(session_id) as refusal:
        alice.upload(session_id, collect(created.policy, 1, 2))
    assert_no_retry(refusal, "TENANT_BYTES", limit)
    assert int(refusal.metadata["came"]) > limit
    for session_id, digest in batches.items():
        alice.adapt(session_id, 0, digest)
    assert len(batches) > 3
    assert limit / 2 < stored_bytes(tmp_path, "alice") <= limit
    bobs = bob.create()
    bob.upload(bobs.session.session_id, collect(bobs.policy))


def test_closed_sessions_count_as_stored_bytes(tenants: Tenants) -> None:
    alice, bob = tenants("max_bytes = 20_000")
    with alice.refuses() as refusal:
        for index in range(20):
            created = alice.create(request_id="r" * 127 + chr(0x1F980 + index))
            alice.stub.CloseSession(service_pb.CloseSessionRequest(session_id=created.session.session_id))
    assert_no_retry(refusal, "TENANT_BYTES", 20_000)
    bob.create()


def test_creates_that_race_for_the_last_bytes(tenants: Tenants, tmp_path: Path) -> None:
    alice, _ = tenants("max_bytes = 20_000", store=tmp_path)

    def create(_: int) -> bool:
        try:
            alice.create()
        except grpc.RpcError:
            return False
        return True

    with ThreadPoolExecutor(16) as threads:
        created = sum(threads.map(create, range(40)))
    assert 1 < created < 40
    assert stored_bytes(tmp_path, "alice") <= 20_000


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
        # A repeated call is never refused for its rate.
        assert service.adapt(session_id, 0, batch.sha256).policy == policy


def test_requests_of_a_tenant_in_a_second(tenants: Tenants) -> None:
    alice, bob = tenants("max_requests_per_second = 0.5")
    alice.create()
    listing = service_pb.ListSessionsRequest()
    calls = {
        "CreateSession": lambda: alice.create(),
        "GetSession": lambda: alice.get("s"),
        "ListSessions": lambda: alice.stub.ListSessions(listing),
        "UploadTrajectories": lambda: alice.upload("s", []),
        "ListMetaPolicies": lambda: alice.meta_stub.ListMetaPolicies(meta_pb.ListMetaPoliciesRequest()),
    }
    for name, call in calls.items():
        with alice.refuses() as refusal:
            call()
        assert (refusal.code, refusal.reason) == (EXHAUSTED, "TENANT_REQUESTS"), name
        assert refusal.metadata == {"limit": "0.5"}
        assert 0 < refusal.retry_delay <= 2
        bob.stub.ListSessions(listing)
    # A refused call costs nothing: the calls above have not lengthened the wait.
    wait_until_accepted(lambda: alice.stub.ListSessions(listing), seconds=refusal.retry_delay)


def wait_until_accepted(call: Callable[[], object], seconds: float) -> None:
    """Asserts that a call is accepted after so many seconds, and not long before."""
    started = time.monotonic()
    while True:
        try:
            call()
        except grpc.RpcError:
            assert time.monotonic() - started < seconds + 30
            time.sleep(0.02)
        else:
            assert time.monotonic() - started > seconds / 2
            return


def test_the_settings_limit_tenants_without_limits_in_the_file(tenants: Tenants) -> None:
    alice, bob = tenants("max_sessions = 2", max_tenant_sessions=1)
    alice.create()
    alice.create()
    bob.create()
    with bob.refuses() as refusal:
        bob.create()
    assert_no_retry(refusal, "TENANT_SESSIONS", 1)


def wait_for_steps(steps: list[int], count: int) -> None:
    """Asserts that so many steps begin: uploads are acknowledged while their steps are computed."""
    until(lambda: len(steps) >= count or None)
    assert len(steps) == count


def test_precomputed_steps_count_against_the_rate_and_are_charged_once(
    tenants: Tenants, collect: Collect, steps: list[int]
) -> None:
    alice, bob = tenants("max_adaptations_per_second = 0.01")
    batches = {}
    for service, expected in ((alice, 1), (bob, 3)):
        steps.clear()
        for _ in range(3):
            created = service.create()
            batch = service.upload(created.session.session_id, collect(created.policy)).batch
            batches[created.session.session_id] = batch.sha256
        wait_for_steps(steps, expected)
    first, second, *_ = batches
    steps.clear()
    assert alice.adapt(first, 0, batches[first]).session.round == 1
    assert steps == []
    with alice.refuses(second) as refusal:
        alice.adapt(second, 0, batches[second])
    assert refusal.code is EXHAUSTED
    assert 0 < refusal.retry_delay <= 100
    assert steps == []


def test_a_round_whose_precomputed_step_a_second_upload_invalidates_is_charged_once(
    tenants: Tenants, collect: Collect
) -> None:
    alice, _ = tenants("max_adaptations_per_second = 0.01")
    created = alice.create()
    session_id = created.session.session_id
    for seed in range(2):
        batch = alice.upload(session_id, collect(created.policy, seed=seed)).batch
    reply = alice.adapt(session_id, 0, batch.sha256)
    assert reply.report.trajectories == 8
    batch = alice.upload(session_id, collect(reply.policy), round_index=1).batch
    with alice.refuses(session_id) as refusal:
        alice.adapt(session_id, 1, batch.sha256)
    assert refusal.code is EXHAUSTED


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("rate", "burst"), [(4.0, 4), (0.25, 1), (1.5, 1)])
def test_the_rate_holds_in_the_mean_with_bursts_of_one_second(rate: float, burst: int) -> None:
    clock = Clock()
    limit = RateLimit(lambda _: rate, clock)

    def taken() -> int:
        for count in range(1000):
            try:
                limit.charge("t", "s", 0)
            except BusyError as error:
                assert 0 < retry_delay(error) <= 1 / rate + 1e-6
                return count
        raise AssertionError("without a limit")

    assert taken() == burst
    total, seconds = 0, 400
    for _ in range(seconds * 4):
        clock.now += 0.25
        total += taken()
    assert abs(total - seconds * rate) <= 1
    limit.charge("another", "s", 0)
    clock.now += 1000.0
    assert taken() == burst


def test_a_retry_after_the_given_delay_succeeds() -> None:
    clock = Clock()
    limit = RateLimit(lambda _: 3.0, clock)
    for _ in range(3):
        limit.charge("t", "s", 0)
    with pytest.raises(BusyError) as caught:
        limit.charge("t", "s", 0)
    clock.now += retry_delay(caught.value) + 1e-9
    limit.charge("t", "s", 0)


def test_a_tenant_without_a_rate_is_never_refused() -> None:
    limit = RateLimit(lambda _: None)
    for index in range(10_000):
        assert limit.prepay("t", "s", index)
        limit.charge("t", "s", index)
        limit.charge("t", "s", index)


def test_a_prepaid_step_is_charged_once() -> None:
    limit = RateLimit(lambda _: 1.0, Clock())
    assert limit.prepay("t", "s", 0)
    assert not limit.prepay("t", "s", 1)
    for other in (("t", "s", 1), ("t", "r", 0)):
        with pytest.raises(BusyError):
            limit.charge(*other)
    limit.charge("another", "s", 0)
    limit.charge("t", "s", 0)
    with pytest.raises(BusyError):
        limit.charge("t", "s", 0)


def retry_delay(error: BusyError) -> float:
    """Seconds after which a refused call may be retried."""
    return float(error.details[0].retry_delay.ToNanoseconds()) / 1e9  # type: ignore[attr-defined]
