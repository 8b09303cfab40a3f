"""Counts what crosses a link: bytes, statements of PostgreSQL, requests of HTTP. A proxy between client and server."""

import collections
import contextlib
import dataclasses
import re
import socket
import struct
import threading
from collections.abc import Callable
from typing import Final, Protocol, Self

_BUFFER: Final = 1 << 16
# Version 3 of PostgreSQL's protocol, in the only message without a type that ends the start of a connection.
_STARTUP: Final = 3 << 16
_START_BYTES, _TYPED_BYTES = 8, 5


class Parser(Protocol):
    """Counts messages in the bytes that a client sends on one connection."""

    def feed(self, data: bytes, counts: "collections.Counter[str]") -> None:
        """Adds the messages that these bytes complete."""


class PostgresMessages:
    """Counts statements, and the times that the client waits for an answer.

    A statement is a Query, or an Execute; the client waits after a Query, or a Sync. BEGIN and COMMIT are statements.
    See https://www.postgresql.org/docs/current/protocol-message-formats.html
    """

    def __init__(self) -> None:
        self._pending = b""
        self._started = False

    def feed(self, data: bytes, counts: "collections.Counter[str]") -> None:
        """As `Parser.feed`."""
        self._pending += data
        while (length := self._length()) is not None and len(self._pending) >= length:
            message, self._pending = self._pending[:length], self._pending[length:]
            if not self._started:
                self._started = struct.unpack("!I", message[4:8])[0] == _STARTUP
                continue
            kind = message[:1]
            if kind == b"Q":
                counts["statements"] += len([each for each in message[5:-1].split(b";") if each.strip()])
            counts["statements"] += kind == b"E"
            counts["round trips"] += kind in (b"Q", b"S")

    def _length(self) -> int | None:
        """Returns the length of the first message; None where its header is not complete."""
        if len(self._pending) < (_TYPED_BYTES if self._started else _START_BYTES):
            return None
        if not self._started:
            return int(struct.unpack("!I", self._pending[:4])[0])
        return 1 + int(struct.unpack("!I", self._pending[1:5])[0])


class HttpRequests:
    """Counts requests of HTTP/1.1 by their method."""

    def __init__(self) -> None:
        self._pending = b""
        self._body = 0

    def feed(self, data: bytes, counts: "collections.Counter[str]") -> None:
        """As `Parser.feed`."""
        self._pending += data
        while self._pending:
            skipped = min(self._body, len(self._pending))
            self._pending, self._body = self._pending[skipped:], self._body - skipped
            head, end, rest = self._pending.partition(b"\r\n\r\n")
            if self._body or not end:
                return
            self._pending = rest
            counts[head.partition(b" ")[0].decode()] += 1
            length = re.search(rb"(?im)^content-length:\s*(\d+)", head)
            self._body = int(length[1]) if length else 0


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What has crossed a link.

    Attributes:
        sent: bytes from client to server.
        received: bytes from server to client.
        counts: messages by their kind.
    """

    sent: int = 0
    received: int = 0
    counts: "collections.Counter[str]" = dataclasses.field(default_factory=collections.Counter)

    def since(self, earlier: "Traffic") -> "Traffic":
        """Returns what has crossed since an earlier count."""
        counts = collections.Counter(self.counts)
        counts.subtract(earlier.counts)
        return Traffic(self.sent - earlier.sent, self.received - earlier.received, counts)


class CountingLink:
    """Forwards connections to a server on this machine, and counts.

    Args:
        port: of the server.
        parser: makes the parser of each connection; None counts bytes alone.

    Attributes:
        port: to connect to in place of the server's.
    """

    def __init__(self, port: int, parser: Callable[[], Parser] | None = None) -> None:
        self._target, self._parser = port, parser
        self._lock = threading.Lock()
        self._sent = self._received = 0
        self._counts: collections.Counter[str] = collections.Counter()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def traffic(self) -> Traffic:
        """Returns what has crossed so far."""
        with self._lock:
            return Traffic(self._sent, self._received, collections.Counter(self._counts))

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = socket.create_connection(("127.0.0.1", self._target))
                for each in (client, server):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets += [client, server]
                parser = None if self._parser is None else self._parser()
                threading.Thread(target=self._forward, args=(client, server, True, parser), daemon=True).start()
                threading.Thread(target=self._forward, args=(server, client, False, None), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, is_request: bool, parser: Parser | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_BUFFER):
                with self._lock:
                    if is_request:
                        self._sent += len(data)
                    else:
                        self._received += len(data)
                    if parser is not None:
                        parser.feed(data, self._counts)
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
