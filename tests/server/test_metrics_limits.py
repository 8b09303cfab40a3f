"""The page of metrics stands peers that are many, slow or endless: its port has no authentication."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Gauge

from tests.support.server.metrics_page import scrape
from tests.support.server.supervised import until
from thetaprime.server.telemetry import exposition

ELSEWHERE = "127.0.0.2"
ASK = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n"


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A page of 4 MB, and half a second for each request."""
    monkeypatch.setattr(exposition, "_REQUEST_SECONDS", 0.5)
    registry = CollectorRegistry()
    gauge = Gauge("filler", "Makes the page long.", ["label"], registry=registry)
    for number in range(1000):
        gauge.labels(f"{number}" + "a" * 4000).set(1)
    with exposition.serve_metrics(registry, "127.0.0.1:0") as found:
        yield found


def connect(address: str, source: str = ELSEWHERE) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=60, source_address=(source, 0))


def read_to_the_end(connection: socket.socket) -> int:
    """Returns the number of bytes until the server closes the connection."""
    count = 0
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(1 << 20):
            count += len(data)
    return count


def test_a_request_that_never_ends_is_closed(address: str) -> None:
    with connect(address) as silent, connect(address) as slow, connect(address) as endless:
        slow.sendall(ASK[:-2])
        with contextlib.suppress(ConnectionError):
            endless.sendall(b"GET / HTTP/1.1\r\n" + b"X-A: a\r\n" * 10_000)
        assert [read_to_the_end(each) for each in (endless, slow, silent)] == [0, 0, 0]
        assert scrape(address)["filler"]


def test_a_reply_that_is_not_read_is_cut(address: str) -> None:
    with connect(address) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.sendall(ASK)
        until(lambda: answering() == 1)
        # The peer holds its connection open, and the thread ends.
        until(lambda: not answering())
        assert scrape(address)["filler"]


def answering() -> int:
    return sum("_answer" in each.name for each in threading.enumerate())


def test_connections_of_one_address_are_limited(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "_REQUEST_SECONDS", 60.0)
    with contextlib.ExitStack() as opened:
        held = [opened.enter_context(connect(address)) for _ in range(exposition._REQUESTS_OF_ADDRESS)]
        with connect(address) as surplus:
            assert read_to_the_end(surplus) == 0
        # Another address has its page, and so have the older connections.
        assert scrape(address)["filler"]
        held[0].sendall(ASK)
        assert read_to_the_end(held[0]) > 4_000_000
        with connect(address) as another:
            another.sendall(ASK)
            assert read_to_the_end(another) > 4_000_000


def test_pages_take_a_part_of_one_processor(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "_REQUEST_SECONDS", 60.0)
    # Each page takes milliseconds, and is followed by a rest of three times as long.
    before, started = time.process_time(), time.monotonic()
    count = 0
    while time.monotonic() - started < 1:
        with connect(address) as peer:
            peer.sendall(ASK)
            assert read_to_the_end(peer)
        count += 1
    # The reader is in this process, and takes its part too.
    assert (time.process_time() - before) / (time.monotonic() - started) < 0.75
    assert count >= 2
