"""Attacks by messages: too large, too slow, too many, or with replies that stay unread."""

import gzip
import time
import weakref
from collections.abc import Callable

from grpc_reflection.v1alpha import reflection_pb2

from tests.attack.attack import GET_META_POLICY, UPLOAD, Aim, Attack, Connected, Held
from tests.support.faults.http2_frames import DATA, END_STREAM, FRAME_BYTES, RawPeer, frame, request_block
from tests.support.faults.http2_peer import message
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import meta_policy_service_pb2 as meta_pb

_MESSAGE_BYTES = 2 << 20
_GET = message(meta_pb.GetMetaPolicyRequest(name="point-navigation").SerializeToString())


class EndlessMessages(Held):
    """Sends 2 MB of a message on each of 500 streams, and never its end."""

    about = "messages of 2 MB on 500 streams of each of eight connections, all without their last byte"
    count = 8

    def __init__(self) -> None:
        # Bytes that each stream of each connection may still carry.
        self._left: weakref.WeakKeyDictionary[RawPeer, dict[int, int]] = weakref.WeakKeyDictionary()

    def open(self, aim: Aim) -> RawPeer:
        peer = aim.connect()
        block = request_block(GET_META_POLICY)
        start = b"\0" + _MESSAGE_BYTES.to_bytes(4, "big")
        left = self._left[peer] = {}
        for _ in range(500):
            stream = peer.start(block)
            peer.send(frame(DATA, stream, start))
            peer.window -= len(start)
            left[stream] = _MESSAGE_BYTES - 1
        return peer

    def go_on(self, peer: RawPeer) -> None:
        left = self._left[peer]
        for stream in left:
            count = min(FRAME_BYTES, left[stream], peer.window)
            if count > 0:
                peer.send(frame(DATA, stream, bytes(count)))
                peer.window -= count
                left[stream] -= count


class SlowMessages(Held):
    """Sends a message a byte at a time."""

    about = "calls whose messages arrive a byte at a time"
    count = 100

    def open(self, aim: Aim) -> RawPeer:
        peer = aim.connect()
        block = request_block(GET_META_POLICY)
        for _ in range(50):
            peer.send(frame(DATA, peer.start(block), b"\0\0\x01\0\0"))
        return peer

    def go_on(self, peer: RawPeer) -> None:
        peer.send(*(frame(DATA, stream, b"\x0a") for stream in range(1, 101, 2)))


class UnreadReplies(Connected):
    """Asks for replies, and lets none arrive: its window is 0."""

    about = "8,000 calls whose replies the peer does not read"
    window = 0
    computes = True

    def begin(self, aim: Aim, peer: RawPeer) -> Callable[[], None]:
        block = request_block(GET_META_POLICY)
        return lambda: _ask(peer, block)


class UnreadRepliesOfMany(Held):
    """The same on a hundred connections."""

    about = "100 calls on each of a hundred connections, with replies that the peer does not read"
    count = 100
    window = 0
    computes = True

    def open(self, aim: Aim) -> RawPeer:
        peer = aim.connect(window=0)
        block = request_block(GET_META_POLICY)
        for _ in range(2):
            _ask(peer, block)
        return peer


def _ask(peer: RawPeer, block: bytes) -> None:
    for _ in range(50):
        peer.send(frame(DATA, peer.start(block), _GET, END_STREAM))


class UnreadWatches(Held):
    """Watches the health of the server, and reads nothing."""

    about = "2,000 health watches on each of forty connections, of a peer that reads nothing"
    count = 40

    def open(self, aim: Aim) -> RawPeer:
        peer = aim.connect(window=0)
        block = request_block("/grpc.health.v1.Health/Watch")
        for _ in range(2000):
            peer.send(frame(DATA, peer.start(block), message(b""), END_STREAM))
        return peer


class ReflectionFlood(Connected):
    """Asks reflection for everything, and reads nothing."""

    about = "reflection streams with a hundred requests each, whose replies are not read"
    window = 0
    computes = True

    def begin(self, aim: Aim, peer: RawPeer) -> Callable[[], None]:
        block = request_block("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        symbol = "thetaprime.v1.AdaptationService"
        ask = message(reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol).SerializeToString())

        def call() -> None:
            stream = peer.start(block)
            peer.send(frame(DATA, stream, ask * 100))

        return call


class HealthFlood(Connected):
    """Asks for the health of the server, which needs no token."""

    about = "health checks, as many as the peer can"
    computes = True

    def begin(self, aim: Aim, peer: RawPeer) -> Callable[[], None]:
        block = request_block("/grpc.health.v1.Health/Check")

        def check() -> None:
            for _ in range(50):
                peer.send(frame(DATA, peer.start(block), message(b""), END_STREAM))
            peer.read(0.05)

        return check


class UnknownMethods(Connected):
    """Calls methods that do not exist."""

    about = "calls of methods that do not exist"
    computes = True

    def begin(self, aim: Aim, peer: RawPeer) -> Callable[[], None]:
        blocks = [request_block(f"/thetaprime.v1.AdaptationService/Method{number}") for number in range(50)]

        def call() -> None:
            for block in blocks:
                peer.start(block, end=True)
            peer.read(0.05)

        return call


class CallsOfNewConnections(Attack):
    """Connects for each call, and leaves with its reply."""

    about = "a connection for each call, which leaves when its reply comes"
    computes = True

    def run(self, aim: Aim) -> None:
        block = request_block(GET_META_POLICY)
        while aim.goes_on():
            try:
                with aim.connect() as peer:
                    peer.send(frame(DATA, peer.start(block), _GET, END_STREAM))
                    peer.read(0.2)
            except OSError:
                time.sleep(0.005)


class CompressedMessages(Connected):
    """Sends messages that are a thousand times as large as they look."""

    about = "unary messages of 64 MB in 64 KB of gzip, and the same in uploads"
    computes = True

    def begin(self, aim: Aim, peer: RawPeer) -> Callable[[], None]:
        bomb = gzip.compress(bytes(64 << 20), 9)
        body = b"\1" + len(bomb).to_bytes(4, "big") + bomb
        blocks = [request_block(method, encoding="gzip") for method in (GET_META_POLICY, UPLOAD)]

        def call() -> None:
            for block in blocks:
                stream = peer.start(block)
                for start in range(0, len(body), FRAME_BYTES):
                    part = body[start : start + FRAME_BYTES]
                    while peer.window < len(part):
                        peer.read(0.05)
                    peer.window -= len(part)
                    peer.send(frame(DATA, stream, part))

        return call


class UnfinishedUploads(Held):
    """Begins uploads to sessions that do not exist, each with a whole chunk."""

    about = "uploads of which a header and a chunk of 1 MiB come, and nothing else"
    count = 50

    def open(self, aim: Aim) -> RawPeer:
        peer = aim.connect()
        header = service_pb.UploadTrajectoriesRequest()
        header.header.session_id, header.header.upload_id, header.header.payload_bytes = "0" * 32, "u", 16 << 20
        chunk = service_pb.UploadTrajectoriesRequest(chunk=service_pb.UploadChunk(data=bytes(1 << 20)))
        body = message(header.SerializeToString()) + message(chunk.SerializeToString())
        stream = peer.start(request_block(UPLOAD))
        end = time.monotonic() + 1
        for start in range(0, len(body), FRAME_BYTES):
            part = body[start : start + FRAME_BYTES]
            while peer.window < len(part) and time.monotonic() < end:
                peer.read(0.05)
            peer.window -= len(part)
            peer.send(frame(DATA, stream, part))
        return peer
