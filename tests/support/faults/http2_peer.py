"""A raw HTTP/2 peer, which does what no gRPC client does: it sends half messages, and reads no replies."""

import collections
import contextlib
import socket
from types import TracebackType
from typing import Final, Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

_SECONDS: Final = 60.0


class Http2Peer:
    """One connection to a server.

    Args:
        address: ``host:port`` of the server.
        window: bytes that the server may send on each stream; 0 lets it send headers only.
        authorization: value of the header; empty for none.
        source: address to connect from, such as another one of the loopback network; empty for the system's choice.

    Attributes:
        socket: the connection.
        name: this peer, as gRPC names it.
    """

    def __init__(self, address: str, window: int = 65535, authorization: str = "", source: str = "") -> None:
        host, _, port = address.rpartition(":")
        self._host, self._authorization = address, authorization
        self.socket = socket.create_connection((host, int(port)), timeout=_SECONDS, source_address=(source, 0))
        self.name = "ipv4:{}:{}".format(*self.socket.getsockname())
        self._connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._events: collections.deque[h2.events.Event] = collections.deque()
        self._connection.initiate_connection()
        self._connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self._flush()
        # From the second acknowledgment on, the server applies the window.
        for _ in range(2):
            self.receive(h2.events.SettingsAcknowledged)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.socket.close()

    def call(self, method: str, body: bytes, *, end: bool = True) -> int:
        """Starts a call.

        Args:
            method: as gRPC names it, ``/package.Service/Method``.
            body: what to send: messages framed by `message`, or a part of one.
            end: whether to end the request after it.

        Returns:
            The number of the stream.
        """
        stream = self.begin(method)
        self._connection.send_data(stream, body, end_stream=end)
        self._flush()
        return stream

    def begin(self, method: str) -> int:
        """Sends the headers of a call, and returns the number of its stream."""
        stream = self._connection.get_next_available_stream_id()
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", self._host),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
        if self._authorization:
            headers.append(("authorization", self._authorization))
        self._connection.send_headers(stream, headers)
        self._flush()
        return stream

    def push(self, data: bytes, streams: dict[int, int]) -> bool:
        """Sends bytes of each stream, as many as the server allows now.

        Args:
            data: what to send of each.
            streams: bytes sent by stream; the server's end of a stream removes it.

        Returns:
            Whether the server allowed any.
        """
        sent = False
        for stream, begin in list(streams.items()):
            try:
                frame = self._connection.max_outbound_frame_size
                window = min(self._connection.local_flow_control_window(stream), frame, len(data) - begin)
                if window > 0:
                    self._connection.send_data(stream, data[begin : begin + window])
                    streams[stream] += window
                    sent = True
            except h2.exceptions.StreamClosedError:
                del streams[stream]
        self._flush()
        return sent

    def poll(self, seconds: float) -> bool:
        """Handles what the server sends within a time; returns whether it sent anything."""
        self.socket.settimeout(seconds)
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            return False
        finally:
            self.socket.settimeout(_SECONDS)
        assert data, "the server closed the connection"
        self._events.extend(self._connection.receive_data(data))
        self._flush()
        return True

    def trailers(self) -> dict[str, str]:
        """Reads from the server until a call ends, and returns its trailers."""
        while True:
            for event in self._events:
                # A refusal without a reply is one frame of headers.
                if isinstance(event, h2.events.TrailersReceived | h2.events.ResponseReceived):
                    headers = {str(name): str(value) for name, value in event.headers or ()}
                    if "grpc-status" in headers:
                        self._events.remove(event)
                        return headers
            data = self.socket.recv(65536)
            assert data, "the server closed the connection"
            self._events.extend(self._connection.receive_data(data))
            self._flush()

    def wait_until_closed(self) -> None:
        """Reads from the server until it closes the connection."""
        with contextlib.suppress(ConnectionError):
            while self.socket.recv(65536):
                pass

    def receive(self, kind: type[h2.events.Event]) -> h2.events.Event:
        """Reads from the server until an event of a kind arrives, and returns the event."""
        while True:
            while self._events:
                event = self._events.popleft()
                if isinstance(event, kind):
                    return event
            data = self.socket.recv(65536)
            assert data, "the server closed the connection"
            self._events.extend(self._connection.receive_data(data))
            self._flush()

    def _flush(self) -> None:
        self.socket.sendall(self._connection.data_to_send())


def message(data: bytes) -> bytes:
    """Returns a gRPC message: a byte for no compression, four for the length, the data."""
    return b"\0" + len(data).to_bytes(4, "big") + data
