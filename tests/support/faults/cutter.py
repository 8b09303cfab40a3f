"""A wire that is cut after so many bytes, at both ends and for good: what is left of a client that died."""

import contextlib
import selectors
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Final

_BLOCK: Final = 1 << 16
# Closed so, a socket sends no more and resets its connection.
_RESET: Final = struct.pack("ii", 1, 0)


class Cutter:
    """Forwards the first connection that comes, byte by byte as many as the client may send.

    Args:
        target: ``host:port`` of the server.
        limit: bytes from the client, after which both connections are reset; None forwards all.

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
        # Wakes it where nobody came.
        with contextlib.suppress(OSError):
            socket.create_connection(self._listener.getsockname()[:2], timeout=1).close()
        self._thread.join()
        self._listener.close()

    def _forward(self) -> None:
        client, _ = self._listener.accept()
        # Nobody else gets in: a client that connects again is refused, as by a machine that is gone.
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
    """A wire for one client."""
    with Cutter(target, limit) as cutter:
        yield cutter
