"""A TCP proxy that resets both of its connections after so many bytes, as the death of a client does."""

import contextlib
import selectors
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Final

_BLOCK: Final = 1 << 16
# With this SO_LINGER, closing a socket resets its connection.
_RESET: Final = struct.pack("ii", 1, 0)


class Cutter:
    """Forwards one connection, up to a number of bytes from the client.

    Args:
        target: ``host:port`` of the server.
        limit: bytes from the client, after which both connections are reset; None for no limit.

    Attributes:
        address: where clients connect.
        sent: bytes that the client has sent.
    """

    def __init__(self, target: str, limit: int | None = None) -> None:
        host, _, port = target.rpartition(":")
        self._target, self._limit = (host, int(port)), limit
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent = 0
        self._thread = threading.Thread(target=self._forward)

    def __enter__(self) -> "Cutter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Ends the wait for a connection, if no client connected.
        with contextlib.suppress(OSError):
            socket.create_connection(self._listener.getsockname()[:2], timeout=1).close()
        self._thread.join()
        self._listener.close()

    def _forward(self) -> None:
        client, _ = self._listener.accept()
        # A client that connects again is refused, as by a machine that is down.
        self._listener.close()
        with client, socket.create_connection(self._target) as server, selectors.DefaultSelector() as ready:
            for end in (client, server):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                ready.register(end, selectors.EVENT_READ)
            with contextlib.suppress(OSError):
                while self._pass_on(client, server, [key.fileobj for key, _ in ready.select()]):
                    pass

    def _pass_on(self, client: socket.socket, server: socket.socket, ready: list[object]) -> bool:
        if client in ready:
            left = _BLOCK if self._limit is None else min(_BLOCK, self._limit - self.sent)
            data = client.recv(left)
            self.sent += len(data)
            server.sendall(data)
            if not data or self.sent == self._limit:
                return False
        if server in ready:
            data = server.recv(_BLOCK)
            client.sendall(data)
            return bool(data)
        return True


@contextlib.contextmanager
def cut_after(target: str, limit: int | None = None) -> Iterator[Cutter]:
    """Runs a cutter for one client."""
    with Cutter(target, limit) as cutter:
        yield cutter
