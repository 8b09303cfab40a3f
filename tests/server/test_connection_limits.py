"""Connections of one address are limited, slow handshakes and idle connections end, and a connection can be closed."""

import contextlib
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import h2.events
import h2.exceptions
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.faults.http2_peer import Http2Peer, message
from tests.support.server.certificates import Authority
from tests.support.server.metrics_page import free_address, scrape, value
from tests.support.server.service import connect
from tests.support.server.supervised import until
from thetaprime.server import running_server
from thetaprime.server.rpc.connections import TOO_MANY, Connections
from thetaprime.server.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from tests.support.server.service import Configure, Start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")

GET = "/thetaprime.v1.MetaPolicyService/GetMetaPolicy"
THETA = message(b"\x0a\x10point-navigation")
ELSEWHERE = "127.0.0.2"


def connect_from(source: str, address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=60, source_address=(source, 0))


def was_closed(connection: socket.socket) -> bool:
    """Waits until the server closes a connection; returns False if it is open after the socket's timeout."""
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


def is_open(connection: socket.socket) -> bool:
    connection.settimeout(0.1)
    return not was_closed(connection)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=16) as listening:
        yield listening


class Accepted:
    """A server without gRPC: it accepts a connection, and keeps it."""

    def __init__(self, listener: socket.socket, opened: contextlib.ExitStack) -> None:
        self._listener, self._opened = listener, opened
        self.address = f"[::]:{listener.getsockname()[1]}"

    def connect(self, host: str) -> tuple[socket.socket, str]:
        """Returns the client's end, and its peer as gRPC names it."""
        client = self._opened.enter_context(socket.create_connection((host, self._listener.getsockname()[1])))
        self._opened.enter_context(self._listener.accept()[0])
        own, port = client.getsockname()[:2]
        return client, f"ipv6:%5B{own}%5D:{port}" if ":" in own else f"ipv4:{own}:{port}"


@pytest.fixture
def accepted(listener: socket.socket) -> Iterator[Accepted]:
    with contextlib.ExitStack() as opened:
        yield Accepted(listener, opened)


@pytest.mark.usefixtures("everything_logged")
def test_the_newest_connections_of_one_address_above_the_limit_are_closed(configure: "Configure") -> None:
    metrics = free_address()
    closed = {"reason": TOO_MANY}

    def count() -> float:
        return value(scrape(metrics), "thetaprime_connections_closed_total", **closed)

    config = configure(max_address_connections=3, metrics_address=metrics)
    with structlog.testing.capture_logs() as logs, running_server(config) as address, contextlib.ExitStack() as opened:
        # One after the other: the server numbers those that arrive together as it accepts them.
        peers = [opened.enter_context(Http2Peer(address, source=ELSEWHERE)) for _ in range(3)]
        assert until(lambda: value(scrape(metrics), "thetaprime_connections") == 3)
        surplus = [opened.enter_context(connect_from(ELSEWHERE, address)) for _ in range(20)]
        assert all(was_closed(each) for each in surplus)
        assert until(lambda: count() == 20)
        # The older ones are served, and so is another address.
        for peer in peers:
            peer.call(GET, THETA)
            peer.receive(h2.events.StreamEnded)
        with connect(address) as service:
            assert service.create().session.session_id
        # A connection that leaves makes room for another.
        opened.pop_all().close()
        assert until(lambda: value(scrape(metrics), "thetaprime_connections") == 0)
        with Http2Peer(address, source=ELSEWHERE) as peer:
            peer.call(GET, THETA)
            peer.receive(h2.events.StreamEnded)
        assert count() == 20
    lines = [line for line in logs if line.get("action") == "disconnected"]
    assert all(line["reason"] == TOO_MANY and line["audit"] for line in lines)
    assert all(line["peer"].startswith(f"ipv4:{ELSEWHERE}:") for line in lines if "peer" in line)
    # The burst has few lines, and the rest is counted.
    assert sum(line.get("count", 1) for line in lines) == 20
    assert sum("peer" in line for line in lines) <= 10


def test_the_process_refuses_connections_above_its_limit(start: "Start") -> None:
    with start(max_connections=4) as service, contextlib.ExitStack() as opened:
        service.create()  # the first connection
        peers = [opened.enter_context(Http2Peer(service.address, source=ELSEWHERE)) for _ in range(3)]
        with connect_from(ELSEWHERE, service.address) as surplus:
            assert was_closed(surplus)
        peers[0].call(GET, THETA)
        peers[0].receive(h2.events.StreamEnded)
        service.create()


def test_a_connection_that_says_nothing_or_half_of_a_handshake_is_closed(
    configure: "Configure", tmp_path: Path
) -> None:
    files = Authority(tmp_path, "authority").issue("server")
    for fields in ({}, {"tls_certificate": files.certificate, "tls_key": files.key}):
        with running_server(configure(handshake_seconds=0.5, **fields)) as address, contextlib.ExitStack() as opened:
            started = time.monotonic()
            peers = [opened.enter_context(connect_from(ELSEWHERE, address)) for _ in range(3)]
            peers[1].sendall(b"PRI * HTTP/2.0\r\n")
            # The head of a TLS record with a ClientHello, and the head of that.
            peers[2].sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
            assert all(was_closed(each) for each in peers)
            assert time.monotonic() - started < 30


def test_an_idle_connection_is_closed_and_its_client_connects_again(start: "Start") -> None:
    with start(connection_idle=0.5) as service, Http2Peer(service.address) as peer:
        created = service.create()
        with pytest.raises((AssertionError, ConnectionError)):
            peer.receive(h2.events.ConnectionTerminated)
            peer.receive(h2.events.StreamEnded)
        assert service.get(created.session.session_id).session.round == 0


def test_an_old_connection_is_closed_and_its_client_connects_again(start: "Start") -> None:
    with start(connection_age=0.5) as service, Http2Peer(service.address) as peer:
        created = service.create()
        # The end and a ping arrive together, and h2 takes nothing after an end.
        with pytest.raises((h2.exceptions.ProtocolError, AssertionError, ConnectionError)):
            peer.receive(h2.events.ConnectionTerminated)
            peer.receive(h2.events.StreamEnded)
        assert service.get(created.session.session_id).session.round == 0


def test_a_closed_connection_ends_though_its_peer_reads_nothing(start: "Start", watched: "list[Connections]") -> None:
    with start() as service, contextlib.ExitStack() as opened:
        created = service.create()
        peer, other = (opened.enter_context(Http2Peer(service.address, window=0, source=ELSEWHERE)) for _ in range(2))
        for each in (peer, other):
            each.call(GET, THETA)
            each.receive(h2.events.ResponseReceived)
        (connections,) = watched
        assert connections.close(peer.name, "TEST")
        assert was_closed(peer.socket)
        assert not connections.close(peer.name, "TEST")
        assert is_open(other.socket)
        assert service.get(created.session.session_id).session.round == 0


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> "list[Connections]":
    """The connections of each server that starts."""
    made: list[Connections] = []

    def make(*arguments: Any) -> Connections:
        made.append(Connections(*arguments))
        return made[-1]

    monkeypatch.setattr("thetaprime.server.runtime.components.Connections", make)
    return made


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_connection_is_closed_by_the_name_that_grpc_gives_its_peer(accepted: Accepted, host: str) -> None:
    connections = Connections(10, Metrics())
    client, peer = accepted.connect(host)
    other, _ = accepted.connect(host)
    assert not connections.close(peer, "TEST")  # nothing is watched yet
    with connections.watch(accepted.address):
        for unknown in ("unix:", "ipv4:127.0.0.1:1", "ipv6:%5B::1%5D:1", ""):
            assert not connections.close(unknown, "TEST")
        assert is_open(client)
        assert connections.close(peer, "TEST")
        assert was_closed(client)
        assert is_open(other)


def test_one_network_of_ipv6_is_one_address_and_ipv4_another(accepted: Accepted) -> None:
    connections = Connections(1, Metrics())
    with connections.watch(accepted.address):
        kept, _ = accepted.connect("::1")
        connections.limit()
        surplus, _ = accepted.connect("::1")
        mapped, _ = accepted.connect("127.0.0.1")
        connections.limit()
        assert was_closed(surplus)
        mapped_surplus, _ = accepted.connect("127.0.0.1")
        connections.limit()
        assert was_closed(mapped_surplus)
        assert is_open(kept)
        assert is_open(mapped)


def test_a_unix_socket_has_no_limit_by_address(start: "Start", tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/socket"
    with start(address=address, max_address_connections=1):
        options = [("grpc.use_local_subchannel_pool", 1)]
        with contextlib.ExitStack() as open_channels:
            channels = [open_channels.enter_context(grpc.insecure_channel(address, options)) for _ in range(3)]
            for channel in (*channels, *channels):
                reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
                assert reply.status == health_pb2.HealthCheckResponse.SERVING
