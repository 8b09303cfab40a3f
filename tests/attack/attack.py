"""What an attack is, and what it is aimed at."""

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Final

from tests.support.faults.http2_frames import RawPeer

GET_META_POLICY: Final = "/thetaprime.v1.MetaPolicyService/GetMetaPolicy"
UPLOAD: Final = "/thetaprime.v1.AdaptationService/UploadTrajectories"


@dataclasses.dataclass(frozen=True)
class Aim:
    """The server that is attacked.

    Attributes:
        address: its ``host:port``.
        metrics: the ``host:port`` of its metrics.
        source: the address of the attackers; honest clients have another.
        token: of a tenant with quotas; empty for an open server.
        authority: PEM file of the authority of the server's certificate; empty for plain text.
        end: when the attack is over, on the monotonic clock.
    """

    address: str
    metrics: str
    source: str
    token: str
    authority: str
    end: float

    def goes_on(self) -> bool:
        """Returns whether the attack is not over."""
        return time.monotonic() < self.end

    def left(self) -> float:
        """Returns the seconds until the attack is over, and a little more."""
        return max(0.0, self.end - time.monotonic()) + 0.1

    def connect(self, window: int = 65535, *, hello: bool = True, address: str = "") -> RawPeer:
        """Opens a connection of the attacker, to the server or to another address; see `RawPeer`."""
        # A blocked attacker gets no answer.
        return RawPeer(address or self.address, self.source, window=window, hello=hello, patience=self.left())


class Attack(ABC):
    """A class of attacks: one peer, or the peers of one address, that do one thing.

    Attributes:
        about: what the peer does, for the page.
        guarded: whether it is aimed at a server with TLS and tokens, as one of its tenants or at its handshake.
        computes: whether the server has work to do for it, so that an honest client may take three times as long.
    """

    about: ClassVar[str]
    guarded: ClassVar[bool] = False
    computes: ClassVar[bool] = False

    @classmethod
    def title(cls) -> str:
        """Returns the name of the attack, such as ``rapid-reset``."""
        return "".join("-" * (each.isupper() and index > 0) + each.lower() for index, each in enumerate(cls.__name__))

    @abstractmethod
    def run(self, aim: Aim) -> None:
        """Attacks until the end of the aim."""


class Connected(Attack):
    """An attack by connections, one after the other: each attacks until the server closes it."""

    window: ClassVar[int] = 65535

    def run(self, aim: Aim) -> None:
        """Connects, attacks, and connects again when the server has closed the connection."""
        while aim.goes_on():
            try:
                with aim.connect(self.window) as peer:
                    attempt = self.begin(aim, peer)
                    while aim.goes_on():
                        attempt()
                        peer.read()
            except OSError:
                time.sleep(0.005)

    @abstractmethod
    def begin(self, aim: Aim, peer: RawPeer) -> Callable[[], None]:
        """Returns what the connection does again and again."""


class Held(Attack):
    """An attack by many connections that are held open."""

    count: ClassVar[int] = 1000
    window: ClassVar[int] = 65535

    def run(self, aim: Aim) -> None:
        """Opens connections, replaces those that the server closes, and lets each go on."""
        peers: list[RawPeer] = []
        while aim.goes_on():
            try:
                while len(peers) < self.count:
                    peers.append(self.open(aim))
                    if len(peers) % 50 == 0:
                        break
            except OSError:
                time.sleep(0.01)
            peers = [peer for peer in peers if self._stays(peer)]
            time.sleep(0.01)

    def _stays(self, peer: RawPeer) -> bool:
        try:
            peer.read()
            self.go_on(peer)
        except OSError:
            peer.socket.close()
            return False
        return True

    @abstractmethod
    def open(self, aim: Aim) -> RawPeer:
        """Opens a connection and begins."""

    def go_on(self, peer: RawPeer) -> None:
        """Does more with an open connection."""
