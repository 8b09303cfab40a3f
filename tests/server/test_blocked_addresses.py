"""Calls that cost their peer nothing close its connection and block its address; others are served on."""

import contextlib
import errno
import ipaddress
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
import structlog

from tests.support.faults.http2_frames import (
    DATA,
    END_STREAM,
    RST_STREAM,
    RawPeer,
    frame,
    request_block,
)
from tests.support.faults.http2_peer import message
from tests.support.server.metrics_page import free_address, scrape, value
from tests.support.server.supervised import until
from tests.support.server.tokens import write_tokens
from thetaprime.server import running_server
from thetaprime.server.rpc.blocked_addresses import BlockedAddresses
from thetaprime.server.rpc.connections import Connections
from thetaprime.server.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from tests.support.server.service import Configure, Start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux refuses the connections")

ELSEWHERE, ELSEWHERE_TOO = "127.0.0.2", "127.0.0.3"
GET = "/thetaprime.v1.MetaPolicyService/GetMetaPolicy"
CHECK = "/grpc.health.v1.Health/Check"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def connects(listener: socket.socket, source: str) -> bool:
    """Returns whether a connection from an address is established: on the loopback network, at once or never."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    with socket.socket(family) as client:
        client.setblocking(False)
        client.bind((source, 0))
        host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        assert client.connect_ex((host, listener.getsockname()[1])) in (0, errno.EINPROGRESS)
        try:
            client.getpeername()
        except OSError:
            return False
        listener.accept()[0].close()
        return True


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket that listens for IPv4 and IPv6."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=16) as listening:
        yield listening


def test_a_blocked_address_gets_no_connection_until_its_time_is_over(listener: socket.socket) -> None:
    clock = Clock()
    blocked = BlockedAddresses(10.0, clock)
    assert blocked.add(ELSEWHERE)
    assert not blocked.add(ELSEWHERE)
    blocked.apply(listener)
    assert [connects(listener, each) for each in (ELSEWHERE, ELSEWHERE_TOO, "::1")] == [False, True, True]
    assert blocked.add("::/64")
    blocked.apply(listener)
    assert [connects(listener, each) for each in (ELSEWHERE, ELSEWHERE_TOO, "::1")] == [False, True, False]
    clock.now += 9.9
    assert not blocked.expire()
    clock.now += 0.2
    assert blocked.expire()
    blocked.apply(listener)
    assert all(connects(listener, each) for each in (ELSEWHERE, ELSEWHERE_TOO, "::1"))
    # Nothing to detach any more.
    blocked.apply(listener)


def test_a_socket_of_ipv4_alone_refuses_too() -> None:
    blocked = BlockedAddresses(10.0)
    blocked.add(ELSEWHERE)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        blocked.apply(listening)
        assert [connects(listening, each) for each in (ELSEWHERE, "127.0.0.1")] == [False, True]


def test_the_oldest_of_many_blocks_is_forgotten_and_the_kernel_takes_the_others(listener: socket.socket) -> None:
    blocked = BlockedAddresses(10.0)
    networks = [str(ipaddress.IPv6Network((each << 64, 64))) for each in range(1, 200)]
    for each in (ELSEWHERE, *networks, ELSEWHERE_TOO):
        assert blocked.add(each)
    assert len(blocked) == 200
    blocked.apply(listener)
    assert [connects(listener, each) for each in (ELSEWHERE, ELSEWHERE_TOO, "::1")] == [True, False, True]


def test_what_is_no_address_is_not_blocked() -> None:
    blocked = BlockedAddresses(10.0)
    assert not any(blocked.add(name) for name in ("unix:", "", "unknown"))
    assert not BlockedAddresses(0.0).add(ELSEWHERE)


def test_where_the_kernel_takes_no_filter_the_scan_closes_connections_of_blocked_addresses(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOPROTOOPT, "no filter")

    monkeypatch.setattr(BlockedAddresses, "apply", refuse)
    connections = Connections(10, Metrics(), 10.0)
    with connections.watch(f"[::]:{listener.getsockname()[1]}"), contextlib.ExitStack() as opened:
        connections.block(ELSEWHERE)
        clients = []
        for source in (ELSEWHERE, ELSEWHERE_TOO):
            address = ("127.0.0.1", listener.getsockname()[1])
            clients.append(opened.enter_context(socket.create_connection(address, source_address=(source, 0))))
            opened.enter_context(listener.accept()[0])
        connections.limit()
        with contextlib.suppress(ConnectionError):
            assert not clients[0].recv(1)
        clients[1].settimeout(0.05)
        with pytest.raises(TimeoutError):
            clients[1].recv(1)


def attempt_until_closed(address: str, attempt: Callable[[RawPeer], None]) -> None:
    """Attempts something on one connection, again and again, until the server closes it."""
    deadline = time.monotonic() + 60
    with RawPeer(address, ELSEWHERE) as peer, pytest.raises(ConnectionError):
        while time.monotonic() < deadline:
            for _ in range(5):
                attempt(peer)
            peer.read(0.02)


def cancel(peer: RawPeer) -> None:
    stream = peer.start(request_block(GET))
    peer.send(frame(RST_STREAM, stream, (8).to_bytes(4, "big")))


def ask_for_nothing(peer: RawPeer) -> None:
    peer.send(frame(DATA, peer.start(request_block(GET)), message(b""), END_STREAM))


def send_no_message(peer: RawPeer) -> None:
    peer.start(request_block(GET), end=True)


def check_an_unknown_service(peer: RawPeer) -> None:
    peer.send(frame(DATA, peer.start(request_block(CHECK)), message(b"\x0a\x01x"), END_STREAM))


def call_an_unknown_method(peer: RawPeer) -> None:
    peer.start(request_block("/thetaprime.v1.AdaptationService/Unknown"), end=True)


def cancel_a_check(peer: RawPeer) -> None:
    stream = peer.start(request_block(CHECK))
    peer.send(frame(RST_STREAM, stream, (8).to_bytes(4, "big")))


@pytest.mark.parametrize(
    "attempt",
    [cancel, ask_for_nothing, send_no_message, check_an_unknown_service, call_an_unknown_method, cancel_a_check],
)
@pytest.mark.usefixtures("everything_logged")
def test_calls_that_cost_a_peer_nothing_close_its_connection_and_block_its_address(
    start: "Start", monkeypatch: pytest.MonkeyPatch, attempt: Callable[[RawPeer], None]
) -> None:
    monkeypatch.setattr("thetaprime.server.rpc.gate._REFUSALS", 5)
    metrics = free_address()
    with structlog.testing.capture_logs() as logs, start(metrics_address=metrics) as service:
        attempt_until_closed(service.address, attempt)
        assert value(scrape(metrics), "thetaprime_blocked_addresses") == 1
        with pytest.raises(TimeoutError):
            socket.create_connection(_pair(service.address), timeout=0.1, source_address=(ELSEWHERE, 0))
        assert service.create().session.session_id
    assert {"action": "blocked", "network": ELSEWHERE, "audit": True}.items() <= next(
        line.items() for line in logs if line.get("action") == "blocked"
    )


def _pair(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def test_calls_that_are_refused_count_by_address_too(start: "Start", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thetaprime.server.rpc.gate._ADDRESS_REFUSALS", 6)
    with start() as service, contextlib.ExitStack() as opened:
        peers = [opened.enter_context(RawPeer(service.address, ELSEWHERE)) for _ in range(4)]
        deadline = time.monotonic() + 60
        with pytest.raises(ConnectionError):
            while time.monotonic() < deadline:
                for peer in peers:
                    ask_for_nothing(peer)
                    peer.read(0.01)
        with pytest.raises(TimeoutError):
            socket.create_connection(_pair(service.address), timeout=0.1, source_address=(ELSEWHERE, 0))
        assert service.create().session.session_id


def test_a_tenant_with_a_token_loses_its_connection_and_its_address_is_not_blocked(
    configure: "Configure", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thetaprime.server.rpc.gate._REFUSALS", 5)
    metrics = free_address()
    tokens = write_tokens(tmp_path / "tokens.toml", {"theta_a": "a"})
    with running_server(configure(tokens=tokens, metrics_address=metrics)) as address:
        block = request_block(GET, authorization="Bearer theta_a")
        attempt_until_closed(address, lambda peer: peer.send(frame(DATA, peer.start(block), message(b""), END_STREAM)))
        assert value(scrape(metrics), "thetaprime_blocked_addresses") == 0
        with socket.create_connection(_pair(address), timeout=60, source_address=(ELSEWHERE, 0)):
            pass


def test_a_block_ends(configure: "Configure", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thetaprime.server.rpc.gate._REFUSALS", 1)
    metrics = free_address()
    with running_server(configure(block_seconds=0.2, metrics_address=metrics)) as address:
        attempt_until_closed(address, ask_for_nothing)
        assert until(lambda: value(scrape(metrics), "thetaprime_blocked_addresses") == 0)
        with socket.create_connection(_pair(address), timeout=60, source_address=(ELSEWHERE, 0)):
            pass


def test_on_a_server_without_tokens_each_address_has_a_rate_of_calls(start: "Start") -> None:
    with start(max_tenant_requests_per_second=2.0) as service:
        with RawPeer(service.address, ELSEWHERE) as peer:
            for _ in range(20):
                ask_for_nothing(peer)
            peer.read(1.0)
            # The other address has its whole rate.
            assert service.create().session.session_id
            assert service.create().session.session_id
        with service.refuses() as refusal:
            for _ in range(20):
                service.create()
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TENANT_REQUESTS")
