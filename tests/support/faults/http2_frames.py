"""Raw frames of HTTP/2, and a peer that sends them as it likes: h2 refuses to break the protocol, or to hurry."""

import select
import socket
from types import TracebackType
from typing import Final, Self

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM: Final = 1
ACK: Final = 1
END_HEADERS: Final = 4
FRAME_BYTES: Final = 16384
"""The largest frame that a peer must accept."""

_INITIAL_WINDOW: Final = 65535
_SETTING_INITIAL_WINDOW: Final = 4
_BLOCK: Final = 1 << 18
_SECONDS: Final = 5.0


def frame(kind: int, stream: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    """Returns one frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def settings(**values: int) -> bytes:
    """Returns a SETTINGS frame; the settings have the names of RFC 9113, in lower case."""
    numbers = {"header_table_size": 1, "initial_window_size": _SETTING_INITIAL_WINDOW, "max_frame_size": 5}
    payload = b"".join(numbers[name].to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in values.items())
    return frame(SETTINGS, payload=payload)


def integer(value: int, prefix: int, first: int = 0) -> bytes:
    """Encodes an integer with a prefix of so many bits (RFC 7541, 5.1); `first` holds the bits before the prefix."""
    most = (1 << prefix) - 1
    if value < most:
        return bytes((first | value,))
    encoded, value = bytearray((first | most,)), value - most
    while value >= 128:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def field(name: bytes, value: bytes, *, indexed: bool = False) -> bytes:
    """Encodes a header field, without compression; an indexed one enters the receiver's table."""
    start = b"\x40" if indexed else b"\0"
    return start + integer(len(name), 7) + name + integer(len(value), 7) + value


def request_block(method: str, *more: bytes, authorization: str = "", encoding: str = "") -> bytes:
    """Returns the header block of a gRPC call, with more encoded fields at its end."""
    fields = {":method": "POST", ":scheme": "http", ":path": method, ":authority": "localhost", "te": "trailers"}
    fields["content-type"] = "application/grpc"
    if authorization:
        fields["authorization"] = authorization
    if encoding:
        fields["grpc-encoding"] = encoding
    return b"".join(field(name.encode(), value.encode()) for name, value in fields.items()) + b"".join(more)


class RawPeer:
    """A connection that sends any bytes, and keeps count of the bytes that it may send.

    Args:
        address: ``host:port`` of the server.
        source: address to connect from.
        hello: whether to send the preface, the settings and an acknowledgment of the server's.
        window: bytes that the server may send on each stream.
        patience: seconds to wait for the connection.

    Attributes:
        socket: the connection.
        window: bytes of data that the server takes on this connection now.
        stream_window: bytes of data that the server takes on a new stream.
        reset: number of streams that the server reset.
    """

    def __init__(
        self,
        address: str,
        source: str = "",
        *,
        hello: bool = True,
        window: int = _INITIAL_WINDOW,
        patience: float = _SECONDS,
    ) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=patience, source_address=(source, 0))
        self.socket.settimeout(_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.window, self.stream_window, self.reset = _INITIAL_WINDOW, _INITIAL_WINDOW, 0
        self._received = bytearray()
        self._stream = -1
        if hello:
            self.send(PREFACE, settings(initial_window_size=window), frame(SETTINGS, flags=ACK))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.socket.close()

    def next_stream(self) -> int:
        """Returns the number of the next stream."""
        self._stream += 2
        return self._stream

    def send(self, *data: bytes) -> None:
        """Sends bytes.

        Raises:
            OSError: the server has closed the connection, or takes nothing for five seconds.
        """
        self.socket.sendall(b"".join(data))

    def start(self, block: bytes, *, end: bool = False) -> int:
        """Sends the headers of a call, and returns the number of its stream."""
        stream = self.next_stream()
        self.send(frame(HEADERS, stream, block, END_HEADERS | (END_STREAM if end else 0)))
        return stream

    def read(self, seconds: float = 0.0) -> None:
        """Reads what has arrived, after a wait of at most so many seconds for its beginning.

        Raises:
            OSError: the server has closed the connection.
        """
        if seconds:
            # Unlike select, it takes any descriptor.
            ready = select.poll()
            ready.register(self.socket, select.POLLIN)
            ready.poll(1000 * seconds)
        self.socket.settimeout(0)
        try:
            while data := self.socket.recv(_BLOCK):
                self._received += data
        except BlockingIOError:
            data = b"more may come"
        finally:
            self.socket.settimeout(_SECONDS)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        self._parse()

    def _parse(self) -> None:
        position = 0
        while len(self._received) - position >= 9:
            head = self._received[position : position + 9]
            length, kind, stream = int.from_bytes(head[:3], "big"), head[3], int.from_bytes(head[5:], "big")
            if len(self._received) - position < 9 + length:
                break
            payload = bytes(self._received[position + 9 : position + 9 + length])
            position += 9 + length
            if kind == WINDOW_UPDATE and stream == 0:
                self.window += int.from_bytes(payload, "big")
            elif kind == RST_STREAM:
                self.reset += 1
            elif kind == PING and not head[4] & ACK:
                self.send(frame(PING, payload=payload, flags=ACK))
            elif kind == SETTINGS:
                for start in range(0, len(payload), 6):
                    if int.from_bytes(payload[start : start + 2], "big") == _SETTING_INITIAL_WINDOW:
                        self.stream_window = int.from_bytes(payload[start + 2 : start + 6], "big")
        del self._received[:position]
