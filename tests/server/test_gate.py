"""Calls are admitted by their headers; messages, replies and calls have limits of bytes, time and number."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import h2.events
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import thetaprime.client as tp
from tests.support.artifacts import write_point_artifact
from tests.support.faults.connections import resident_kib
from tests.support.faults.http2_peer import Http2Peer, message
from tests.support.point_navigation import NAME
from tests.support.server.metrics_page import free_address, scrape, value
from tests.support.server.process import ServerProcess
from tests.support.server.tokens import write_tokens
from thetaprime.server import running_server
from thetaprime.v1 import meta_policy_service_pb2 as meta_pb

if TYPE_CHECKING:
    from tests.support.server.service import Configure, Connect, Start

ADAPTATION = "/thetaprime.v1.AdaptationService/"
GET_META_POLICY = "/thetaprime.v1.MetaPolicyService/GetMetaPolicy"
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
UNAUTHENTICATED, DEADLINE_EXCEEDED, EXHAUSTED = "16", "4", "8"
# A message of which the last byte never comes.
UNFINISHED = message(bytes(1000))[:-1]


def wait_for_closed(metrics: str, reason: str) -> None:
    """Waits until the server has counted a connection that it closed."""
    deadline = time.monotonic() + 60
    while not value(scrape(metrics), "thetaprime_connections_closed_total", reason=reason):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("method", ["CreateSession", "UploadTrajectories", "GetPolicy"])
def test_a_call_without_a_token_is_refused_before_its_message(
    configure: "Configure", tmp_path: Path, method: str
) -> None:
    tokens = write_tokens(tmp_path / "tokens.toml", {"theta_a": "a"})
    with running_server(configure(tokens=tokens)) as address, Http2Peer(address) as peer:
        peer.begin(ADAPTATION + method)
        assert peer.trailers()["grpc-status"] == UNAUTHENTICATED


@pytest.mark.parametrize("method", [f"{ADAPTATION}CreateSession", f"{ADAPTATION}UploadTrajectories", CHECK, REFLECTION])
def test_a_request_that_does_not_arrive_is_ended(start: "Start", method: str) -> None:
    with start(request_seconds=0.1) as service, Http2Peer(service.address) as peer:
        peer.call(method, UNFINISHED, end=False)
        trailers = peer.trailers()
        assert (trailers["grpc-status"], "within 0.1 s" in trailers["grpc-message"]) == (DEADLINE_EXCEEDED, True)
        assert service.create().session.session_id


def test_a_call_without_a_message_is_refused(start: "Start") -> None:
    with start() as service, Http2Peer(service.address) as peer:
        peer.call(f"{ADAPTATION}CreateSession", b"")
        assert peer.trailers()["grpc-message"].startswith("request: missing")


def test_a_request_larger_than_any_valid_one_is_refused(service: "Any") -> None:
    with service.refuses() as refusal:
        service.create(request_id="x" * 20_000)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE")
    assert refusal.metadata["limit"] == str(16 << 10)


def test_a_connection_that_reads_no_reply_is_closed_and_its_memory_released(
    start: "Start", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thetaprime.server.rpc.gate._SMALL", 1000)
    request = message(meta_pb.GetMetaPolicyRequest(name=NAME).SerializeToString())
    metrics = free_address()
    # Memory for two replies of an address, of which a connection gets half. Each costs two copies.
    with start(reply_seconds=2.0, max_address_bytes=16_000, metrics_address=metrics) as service:
        size = service.meta_stub.GetMetaPolicy(meta_pb.GetMetaPolicyRequest(name=NAME)).ByteSize()
        assert 2_500 < size < 5_000
        with Http2Peer(service.address, window=0) as deaf:
            deaf.call(GET_META_POLICY, request)
            deaf.receive(h2.events.ResponseReceived)
            deaf.call(GET_META_POLICY, request)
            assert deaf.trailers()["grpc-status"] == EXHAUSTED
            service.meta_stub.GetMetaPolicy(meta_pb.GetMetaPolicyRequest(name=NAME))
            deaf.wait_until_closed()
        wait_for_closed(metrics, "REPLY_UNREAD")
        with Http2Peer(service.address, window=0) as deaf:
            deaf.call(GET_META_POLICY, request)
            deaf.receive(h2.events.ResponseReceived)


def test_a_watcher_that_reads_nothing_is_closed(start: "Start") -> None:
    with start(reply_seconds=0.1) as service, Http2Peer(service.address, window=0) as deaf:
        deaf.call(WATCH, message(b""))
        deaf.wait_until_closed()
        reply = health_pb2_grpc.HealthStub(service.channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_the_health_checks_of_an_address_are_limited_apart_from_its_calls(
    start: "Start", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thetaprime.server.rpc.interceptor._OPEN_CALLS", 0.001)
    with start() as service:
        stub = health_pb2_grpc.HealthStub(service.channel)
        assert stub.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        with service.refuses() as refusal:
            stub.Check(health_pb2.HealthCheckRequest())
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TENANT_REQUESTS")
        assert service.create().session.session_id


def test_the_calls_of_an_address_are_limited_and_clients_retry(start: "Start") -> None:
    with start(max_address_calls=3) as service:
        stub = health_pb2_grpc.HealthStub(service.channel)
        watching = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=60) for _ in range(3)]
        for each in watching:
            next(each)
        for refused in (
            lambda: next(stub.Watch(health_pb2.HealthCheckRequest(), timeout=60)),
            lambda: stub.Check(health_pb2.HealthCheckRequest(), timeout=60),
            service.create,
        ):
            with service.refuses() as refusal:
                refused()
            assert (refusal.code, refusal.retry_delay) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 1.0)
            assert "calls from this address" in refusal.message
        with tp.Client(service.address, timeout=0.5) as client, pytest.raises(tp.LimitError) as caught:
            client.meta_policies()
        assert caught.value.retry_after == 1.0
        watching.pop().cancel()
        with tp.Client(service.address) as client:
            assert client.meta_policies()
        for each in watching:
            each.cancel()


def test_a_connection_whose_calls_are_refused_again_and_again_is_closed(
    configure: "Configure", connect: "Connect", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thetaprime.server.rpc.gate._REFUSALS", 5)
    tokens = write_tokens(tmp_path / "tokens.toml", {"theta_a": "a"})
    with running_server(configure(tokens=tokens)) as address, connect(address, "theta_a") as service:
        with Http2Peer(address, source="127.0.0.2") as stranger:
            # More than enough, should a second end meanwhile.
            with contextlib.suppress(ConnectionError):
                for _ in range(10):
                    stranger.begin(f"{ADAPTATION}GetSession")
            stranger.wait_until_closed()
        assert service.create().session.session_id


def test_reflection_can_be_closed(start: "Start") -> None:
    with start(reflection=False) as service, pytest.raises(grpc.RpcError) as caught:
        stub = reflection_pb2_grpc.ServerReflectionStub(service.channel)
        next(stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=60))
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@contextlib.contextmanager
def growth(server: ServerProcess, most_mib: int) -> Iterator[None]:
    """Asserts how much the server's resident memory grows."""
    before = resident_kib(server.pid)
    yield
    assert resident_kib(server.pid) - before < most_mib * 1024


def push_endless_messages(server: ServerProcess, method: str, authorization: str = "") -> int:
    """Sends a megabyte less one byte on each of 500 streams, as far as the server allows; returns the streams left."""
    data, left = message(bytes(1_000_000))[:-1], 0
    with contextlib.ExitStack() as opened:
        for _ in range(5):
            peer = opened.enter_context(Http2Peer(server.address, authorization=authorization))
            streams = {peer.begin(method): 0 for _ in range(100)}
            while peer.push(data, streams) or peer.poll(0.3):
                pass
            left += len(streams)
    return left


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_no_peer_fills_the_memory(tmp_path: Path) -> None:
    write_point_artifact(tmp_path / "zoo")
    tokens = write_tokens(tmp_path / "tokens.toml", {"theta_a": "a"})
    with ServerProcess(tmp_path, tmp_path / "zoo", "--tokens", str(tokens)) as server:
        server.start()
        # Without a token; nothing but headers and the first window is read.
        with growth(server, 64):
            push_endless_messages(server, f"{ADAPTATION}CreateSession")
            push_endless_messages(server, f"{ADAPTATION}UploadTrajectories")
        assert server.stop() == 0
    with ServerProcess(tmp_path, tmp_path / "zoo") as server:
        server.start()
        # As the only tenant of a server without tokens.
        with growth(server, 64):
            assert push_endless_messages(server, f"{ADAPTATION}CreateSession") > 0
        assert server.stop() == 0
