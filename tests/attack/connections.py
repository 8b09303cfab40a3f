"""Attacks by connections, before a call."""

import contextlib
import os
import socket
import ssl
import time

from tests.attack.attack import Aim, Attack, Held
from tests.support.faults.http2_frames import PREFACE, RawPeer


class SilentConnections(Held):
    """Opens connections, and says nothing."""

    about = "a thousand connections that say nothing, opened again when they are closed"

    def open(self, aim: Aim) -> RawPeer:
        return aim.connect(hello=False)


class ManyConnections(Held):
    """Opens as many connections as it can."""

    about = "connections with a finished handshake, as many and as fast as the peer can"
    count = 8000

    def open(self, aim: Aim) -> RawPeer:
        return aim.connect()


class ConnectionChurn(Attack):
    """Connects and leaves."""

    about = "connections that are opened and reset at once"

    def run(self, aim: Aim) -> None:
        host, _, port = aim.address.rpartition(":")
        while aim.goes_on():
            with contextlib.suppress(OSError), socket.socket() as peer:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                peer.bind((aim.source, 0))
                peer.settimeout(aim.left())
                peer.connect((host, int(port)))
                peer.sendall(PREFACE)


class HalfTlsHandshakes(Held):
    """Begins handshakes of TLS: the server answers with its certificate, and waits."""

    about = "TLS handshakes of which one half ends after the ClientHello, the other half within it"
    guarded = True
    computes = True

    def open(self, aim: Aim) -> RawPeer:
        context = ssl.create_default_context()
        context.set_alpn_protocols(["h2"])
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        with contextlib.suppress(ssl.SSLWantReadError):
            context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
        hello = outgoing.read()
        peer = aim.connect(hello=False)
        peer.send(hello if peer.socket.fileno() % 2 else hello[:40])
        return peer


class WrongPrefaces(Attack):
    """Speaks another protocol."""

    about = "HTTP/1.1, TLS and random bytes instead of the preface of HTTP/2"

    def run(self, aim: Aim) -> None:
        number = 0
        while aim.goes_on():
            number += 1
            said = (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\x02\0\1\0\1\xfc\3\3", os.urandom(4096))
            with contextlib.suppress(OSError), aim.connect(hello=False) as peer:
                peer.send(said[number % 3])
                peer.read(0.02)


class SlowMetrics(Held):
    """Asks for the metrics, and never ends its headers, or reads nothing."""

    about = "a thousand connections to the page of metrics: headers without an end, and replies that are not read"

    def open(self, aim: Aim) -> RawPeer:
        peer = aim.connect(hello=False, address=aim.metrics)
        if peer.socket.fileno() % 2:
            peer.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n")
        else:
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peer.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 8)
        return peer

    def _stays(self, peer: RawPeer) -> bool:
        with contextlib.suppress(OSError):
            if peer.socket.fileno() % 2:
                peer.send(b"X-A: " + b"a" * 1000 + b"\r\n")
            return True
        peer.socket.close()
        return False


class MetricsFlood(Attack):
    """Asks for the metrics, again and again."""

    about = "requests for the metrics, one after the other"
    computes = True

    def run(self, aim: Aim) -> None:
        while aim.goes_on():
            with contextlib.suppress(OSError), aim.connect(hello=False, address=aim.metrics) as peer:
                peer.send(b"GET /metrics HTTP/1.0\r\n\r\n")
                while peer.socket.recv(65536):
                    pass
            time.sleep(0.001)
