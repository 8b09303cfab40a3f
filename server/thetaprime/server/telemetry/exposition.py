"""Serves metrics to Prometheus over HTTP, within limits: the port has no authentication."""

import collections
import contextlib
import io
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from thetaprime.server.address import split_address
from thetaprime.server.errors import StartupError

# Requests at once, each on a thread.
_REQUESTS: Final = 32
_REQUESTS_OF_ADDRESS: Final = 8
_REQUEST_BYTES: Final = 16384
_REQUEST_SECONDS: Final = 10.0
# Rests this many times as long as a page took, before the next one: pages take a quarter of a processor at most.
_REST: Final = 3.0
_CHECK_SECONDS: Final = 0.25
# With this SO_LINGER, closing a socket resets its connection: the kernel keeps no bytes for a peer that reads nothing.
_RESET: Final = struct.pack("ii", 1, 0)


@contextlib.contextmanager
def serve_metrics(registry: CollectorRegistry, address: str) -> Iterator[str]:
    """Serves metrics over HTTP, on every path, for the duration of the context.

    Args:
        registry: the metrics.
        address: ``host:port`` to listen on; port 0 takes any free port. If empty, no port is opened.

    Yields:
        The ``host:port`` that it listens on; empty if no port is open.

    Raises:
        StartupError: it cannot listen there.
    """
    if not address:
        yield ""
        return
    try:
        host, port = split_address(address)
        server = MetricsServer(host or "0.0.0.0", port)  # noqa: S104 - the operator's choice
    except (OSError, ValueError) as error:
        raise StartupError(f"metrics address {address}: {error}") from error
    server.set_app(_rest_between_pages(make_wsgi_app(registry)))
    thread = threading.Thread(target=server.serve_forever, args=(_CHECK_SECONDS,), name="metrics", daemon=True)
    thread.start()
    try:
        yield f"{address.rpartition(':')[0]}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _rest_between_pages(page: Callable[..., Any]) -> Callable[..., Any]:
    """Makes one page at a time, with a rest after each."""
    turn = threading.Lock()
    earliest = 0.0

    def paced(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        nonlocal earliest
        with turn:
            time.sleep(max(0.0, earliest - time.monotonic()))
            began = time.monotonic()
            made = page(environ, start_response)
            ended = time.monotonic()
            earliest = ended + _REST * (ended - began)
        return made

    return paced


class MetricsServer(WSGIServer):
    """Answers each request on a thread, and closes connections that are too many or too slow."""

    # Connections that wait to be accepted: with the 5 of the base class, a burst makes others wait for seconds.
    request_queue_size = 128

    def __init__(self, host: str, port: int) -> None:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.address_family = family
        # Address and latest end of each open connection.
        self._open: dict[socket.socket, tuple[str, float]] = {}
        self._lock = threading.Lock()
        super().__init__(address, _RequestHandler)  # type: ignore[arg-type]  # its type knows IPv4 only

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers a request on a thread; closes its connection if there are too many."""
        host = client_address[0]
        with self._lock:
            counts = collections.Counter(host for host, _ in self._open.values())
            surplus = counts.total() >= _REQUESTS or counts[host] >= _REQUESTS_OF_ADDRESS
            if not surplus:
                self._open[request] = host, time.monotonic() + _REQUEST_SECONDS
        if surplus:
            self.shutdown_request(request)
        else:
            threading.Thread(target=self._answer, args=(request, client_address), daemon=True).start()

    def _answer(self, request: socket.socket, client_address: Any) -> None:
        try:
            # The peer may leave at any time, and logs of libraries go nowhere here.
            with contextlib.suppress(OSError):
                self.finish_request(request, client_address)
        finally:
            with self._lock:
                del self._open[request]
            self.shutdown_request(request)

    def service_actions(self) -> None:
        """Shuts down connections that took too long; their threads then end."""
        self._shut_down(time.monotonic())

    def server_close(self) -> None:
        """Closes the port, and shuts down all connections."""
        super().server_close()
        self._shut_down(float("inf"))

    def _shut_down(self, latest: float) -> None:
        with self._lock:
            for request, (_, end) in self._open.items():
                if end < latest:
                    with contextlib.suppress(OSError):
                        request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                        request.shutdown(socket.SHUT_RDWR)


class _RequestHandler(WSGIRequestHandler):
    """Answers one request of bounded size, and logs nothing."""

    def handle(self) -> None:
        """Reads the head of the request before it is parsed."""
        head = b""
        while b"\r\n\r\n" not in head and b"\n\n" not in head:
            data = self.connection.recv(_REQUEST_BYTES)
            head += data
            if not data or len(head) > _REQUEST_BYTES:
                return
        self.rfile = io.BufferedReader(io.BytesIO(head))
        super().handle()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
        """Logs nothing: a stranger can cause any number of lines."""
