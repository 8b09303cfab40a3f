"""Connections and bytes that serve no call block their address; calls and uploads of any size do not."""

import contextlib
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import grpc
import h2.events
import pytest

from tests.support.faults.http2_frames import (
    CONTINUATION,
    FRAME_BYTES,
    HEADERS,
    PREFACE,
    PRIORITY,
    RawPeer,
    field,
    frame,
    request_block,
)
from tests.support.faults.http2_peer import Http2Peer, message
from tests.support.server.metrics_page import free_address, scrape, value
from tests.support.server.supervised import until
from thetaprime.server import running_server
from thetaprime.server.rpc.connections import TOO_MANY, USELESS_BYTES, Connections
from thetaprime.server.rpc.traffic import Traffic
from thetaprime.server.telemetry.metrics import Metrics
from thetaprime.v1 import adaptation_service_pb2 as service_pb

if TYPE_CHECKING:
    from tests.support.server.service import Configure, Start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc and its filters of packets")

ELSEWHERE: Final = "127.0.0.2"
GET: Final = "/thetaprime.v1.MetaPolicyService/GetMetaPolicy"
THETA: Final = message(b"\x0a\x10point-navigation")
_MIB: Final = 1 << 20


def connect(address: str) -> socket.socket:
    """Connects from another address than that of the service's own client."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=1.0, source_address=(ELSEWHERE, 0))


def reset_at_once(address: str) -> None:
    with connect(address) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.sendall(PREFACE)


def speak_http_1(address: str) -> None:
    with connect(address) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        while peer.recv(65536):
            pass


@pytest.mark.parametrize("attempt", [reset_at_once, speak_http_1])
def test_connections_that_never_call_block_their_address(
    start: "Start", monkeypatch: pytest.MonkeyPatch, attempt: Callable[[str], None]
) -> None:
    # The client shares this process with the server, so that a scan sees few connections.
    monkeypatch.setattr("thetaprime.server.rpc.connections._USELESS", 20)
    metrics = free_address()
    with start(metrics_address=metrics) as service:
        deadline = time.monotonic() + 30
        # Attempts of a blocked address time out.
        with contextlib.suppress(TimeoutError):
            while time.monotonic() < deadline:
                with contextlib.suppress(ConnectionError):
                    attempt(service.address)
        assert value(scrape(metrics), "thetaprime_blocked_addresses") == 1
        assert service.create().session.session_id


def test_connections_above_the_limit_block_their_address(
    configure: "Configure", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thetaprime.server.rpc.connections._USELESS", 5)
    metrics = free_address()
    config = configure(max_address_connections=2, metrics_address=metrics)
    with running_server(config) as address, contextlib.ExitStack() as opened:
        deadline = time.monotonic() + 30
        while not value(scrape(metrics), "thetaprime_blocked_addresses") and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                opened.enter_context(connect(address))
        assert value(scrape(metrics), "thetaprime_connections_closed_total", reason=TOO_MANY) >= 5
        assert value(scrape(metrics), "thetaprime_blocked_addresses") == 1


def test_a_client_that_connects_for_each_call_is_served(start: "Start", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thetaprime.server.rpc.connections._USELESS", 30)
    metrics = free_address()
    with start(metrics_address=metrics) as service:
        for _ in range(40):
            with Http2Peer(service.address, source=ELSEWHERE) as peer:
                peer.call(GET, THETA)
                peer.receive(h2.events.StreamEnded)
        assert value(scrape(metrics), "thetaprime_blocked_addresses") == 0


def prioritize(peer: RawPeer) -> Iterator[bytes]:
    # gRPC ignores these frames; it closes a connection with many pings by itself, at times before it is measured.
    yield from iter(lambda: frame(PRIORITY, peer.next_stream(), bytes(5)) * 1000, b"")


def continue_headers(peer: RawPeer) -> Iterator[bytes]:
    yield frame(HEADERS, peer.next_stream(), request_block(GET))
    yield from iter(lambda: frame(CONTINUATION, 1, field(b"x-filler", b"a" * (FRAME_BYTES - 20))), b"")


@pytest.mark.parametrize("attack", [prioritize, continue_headers])
def test_bytes_of_no_call_close_their_connection_and_block_its_address(
    start: "Start", monkeypatch: pytest.MonkeyPatch, attack: Callable[[RawPeer], Iterator[bytes]]
) -> None:
    monkeypatch.setattr("thetaprime.server.rpc.traffic._BURST", 200 << 10)
    monkeypatch.setattr("thetaprime.server.rpc.traffic._RATE", 0)
    metrics = free_address()
    with start(metrics_address=metrics) as service:
        with RawPeer(service.address, ELSEWHERE) as peer, contextlib.suppress(ConnectionError):
            deadline = time.monotonic() + 30
            for data in attack(peer):
                assert time.monotonic() < deadline
                peer.send(data)
                peer.read()
        assert until(lambda: value(scrape(metrics), "thetaprime_blocked_addresses") == 1)
        closed = value(scrape(metrics), "thetaprime_connections_closed_total", reason=USELESS_BYTES)
        assert closed == 1
        assert service.create().session.session_id


def test_the_bytes_of_calls_close_no_connection(start: "Start", monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends ten times what a connection may send in vain."""
    monkeypatch.setattr("thetaprime.server.rpc.traffic._BURST", 200 << 10)
    monkeypatch.setattr("thetaprime.server.rpc.traffic._RATE", 0)
    metrics = free_address()
    with start(metrics_address=metrics) as service:
        session_id = service.create().session.session_id
        header = service_pb.UploadTrajectoriesRequest()
        header.header.session_id, header.header.upload_id, header.header.payload_bytes = session_id, "a", 8 * _MIB
        chunk = service_pb.UploadTrajectoriesRequest(chunk=service_pb.UploadChunk(data=bytes(_MIB)))
        # Refused for the end that it lacks, after everything else was read.
        with service.refuses() as refusal:
            service.send(iter([header, *[chunk] * 8]))
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert value(scrape(metrics), "thetaprime_connections_closed_total", reason=USELESS_BYTES) == 0
        assert service.get(session_id).session.round == 0


def test_bytes_exceed_only_beyond_what_calls_account_for() -> None:
    traffic = Traffic(since=0.0)
    assert not traffic.exceeds(8 * _MIB, 0.0)
    assert traffic.exceeds(8 * _MIB + 1, 0.0)
    # What was announced may come at any time, and counts no more once it has come.
    traffic.note(0, 20 * _MIB)
    assert not traffic.exceeds(28 * _MIB, 0.0)
    traffic.note(20 * _MIB, -20 * _MIB)
    assert not traffic.exceeds(28 * _MIB, 0.0)
    # A second without a byte allows another MiB; hours allow no more than twice the burst.
    traffic = Traffic(since=0.0)
    assert not traffic.exceeds(0, 3600.0)
    assert not traffic.exceeds(16 * _MIB, 3600.0)
    assert traffic.exceeds(16 * _MIB + 1, 3600.0)
    assert not traffic.exceeds(17 * _MIB, 3601.0)


def test_only_a_short_connection_without_a_call_is_useless() -> None:
    traffic = Traffic(since=10.0)
    assert traffic.was_useless(10.5)
    assert not traffic.was_useless(11.5)
    traffic.note(100)
    assert not traffic.was_useless(10.5)


def test_a_call_counts_though_its_connection_was_not_known_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The note of a call may come before the scan that finds its connection, and after that connection has ended."""
    monkeypatch.setattr("thetaprime.server.rpc.connections._USELESS", 10)
    metrics = Metrics()
    connections = Connections(10, metrics, 10.0)
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, connections.watch("{}:{}".format(*listener.getsockname())):
        for _ in range(30):
            # Of a blocked address, it times out.
            with socket.create_connection(listener.getsockname(), timeout=2.0) as client:
                accepted, (host, port) = listener.accept()
                connections.note(f"ipv4:{host}:{port}", 100)
                connections.limit()
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            accepted.close()
            connections.limit()
        assert metrics.registry.get_sample_value("thetaprime_blocked_addresses") == 0
