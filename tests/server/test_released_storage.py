"""What a session stored is released with it, however the session ends, and nothing remains that no row names."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc
import numpy as np
import pytest
import sqlalchemy as sa
import structlog
from google.protobuf import duration_pb2

from tests.support.point_navigation import NAME, play
from tests.support.server.without_wire import RefusedError, ServiceWithoutWire
from thetaprime import wire
from thetaprime.server import ServerConfig
from thetaprime.server.store import ClockGuard, Store, tables
from thetaprime.server.store.expiry import unnamed_blob_rows
from thetaprime.v1 import adaptation_service_pb2 as service_pb

if TYPE_CHECKING:
    from tests.support.server.service import Configure

SECOND: Final = 1_000_000
TTL: Final = 100


class Calls:
    """Calls of one tenant, by a clock that the test sets.

    Attributes:
        now: microseconds since 1970.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.now = 1_700_000_000 * SECOND
        self.service = ServiceWithoutWire(config, now=lambda: self.now)
        self.store = self.service.store

    def create(self, request_id: str) -> service_pb.CreateSessionResponse:
        request = service_pb.CreateSessionRequest(
            request_id=request_id, meta_policy=NAME, ttl=duration_pb2.Duration(seconds=TTL)
        )
        reply = self.service.call("CreateSession", [request.SerializeToString()])
        return service_pb.CreateSessionResponse.FromString(reply)

    def upload(self, created: service_pb.CreateSessionResponse, seed: int) -> str:
        """Uploads four episodes, and returns the digest of the round's batch."""
        payload = wire.pack(play(created.policy, np.random.default_rng(seed), trajectories=4, steps=8))
        messages = wire.iter_upload(created.session.session_id, f"u{seed}", 0, payload, 4, 32)
        reply = self.service.call("UploadTrajectories", [message.SerializeToString() for message in messages])
        return service_pb.UploadTrajectoriesResponse.FromString(reply).batch.sha256

    def adapt(self, session_id: str, batch_sha256: str) -> None:
        request = service_pb.AdaptRequest(session_id=session_id, expected_round=0, batch_sha256=batch_sha256)
        self.service.call("Adapt", [request.SerializeToString()])

    def blobs(self) -> set[str]:
        """Every blob, in a row or in a file."""
        with self.store.reading() as connection:
            return {*connection.scalars(sa.select(tables.blobs.c.sha256)), *self.store.blobs.digests()}


@pytest.fixture(params=[0, 1 << 20], ids=["files", "rows"])
def calls(request: pytest.FixtureRequest, configure: "Configure") -> Iterator[Calls]:
    running = Calls(configure(keep_policies=TTL, row_bytes=request.param))
    with running.service:
        yield running


@pytest.mark.parametrize("seconds", [TTL, 2 * TTL], ids=["expired", "deleted"])
def test_a_request_id_used_again_before_the_sweep_leaves_nothing_of_its_first_session(
    calls: Calls, seconds: int
) -> None:
    first = calls.create("r")
    calls.upload(first, seed=0)
    digest = calls.upload(first, seed=1)
    if seconds > TTL:
        # The session's policies keep it until now.
        calls.adapt(first.session.session_id, digest)
    calls.now += (seconds - 1) * SECOND
    other = calls.create("other")
    # Bytes of the first session too: they stay, for this one.
    calls.upload(other, seed=1)
    calls.upload(other, seed=2)
    calls.now += SECOND
    assert calls.create("r").session.session_id != first.session.session_id
    assert len(calls.blobs()) == 2
    with calls.store.reading() as connection:
        assert calls.blobs() == {*connection.scalars(sa.select(tables.uploads.c.payload_sha256))}
        assert not connection.execute(tables.policies.select()).all()


@pytest.mark.usefixtures("everything_logged")
def test_what_has_expired_makes_room_before_the_sweep(configure: "Configure") -> None:
    calls = Calls(configure(keep_policies=0, max_tenant_steps=40))
    with calls.service, structlog.testing.capture_logs() as logs:
        first = calls.create("r")
        calls.upload(first, seed=1)
        calls.now += (TTL - 1) * SECOND
        second = calls.create("s")
        with pytest.raises(RefusedError, match="64; at most 40"):
            calls.upload(second, seed=2)
        calls.now += SECOND
        calls.upload(second, seed=2)
        ends = [line["session_id"] for line in logs if line.get("action") == "expired"]
        assert ends == [first.session.session_id]


def test_a_clock_that_jumped_ahead_makes_no_room(configure: "Configure") -> None:
    calls = Calls(configure(keep_policies=0, max_tenant_steps=40))
    with calls.service:
        assert ClockGuard(calls.store).trusts_clock()
        calls.upload(calls.create("r"), seed=1)
        calls.now += 2 * 24 * 3600 * SECOND
        with pytest.raises(RefusedError, match="64; at most 40"):
            calls.upload(calls.create("s"), seed=2)


def test_a_session_is_not_replaced_by_a_clock_that_jumped_ahead(calls: Calls) -> None:
    assert ClockGuard(calls.store).trusts_clock()
    session_id = calls.create("r").session.session_id
    calls.now += 2 * 24 * 3600 * SECOND
    with pytest.raises(RefusedError, match=r"48\.0 hours ahead") as refused:
        calls.create("r")
    assert refused.value.code is grpc.StatusCode.UNAVAILABLE
    calls.create("another")
    calls.now -= 2 * 24 * 3600 * SECOND
    assert calls.create("r").session.session_id == session_id


def test_blob_rows_that_no_row_names_are_swept(tmp_path: Path) -> None:
    with contextlib.closing(Store(tmp_path)) as store:
        with store.writing() as connection:
            store.keep(connection, {wire.sha256_hex(b"leaked"): b"leaked"})
        store.sweep_orphans()
        with store.reading() as connection:
            assert not connection.execute(tables.blobs.select()).all()
            assert not unnamed_blob_rows(connection)


def test_a_sweep_without_orphans_does_not_wait_for_writers(tmp_path: Path) -> None:
    stores = [Store(tmp_path) for _ in range(2)]
    with ThreadPoolExecutor() as threads, stores[0].writing():
        finished, _ = wait([threads.submit(stores[1].sweep_orphans)], timeout=5.0)
        assert finished
    for store in stores:
        store.close()
