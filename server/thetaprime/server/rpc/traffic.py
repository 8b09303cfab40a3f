"""Weighs what a connection sends against what its calls account for.

A call is counted and limited by its headers. Frames that belong to no call (pings, settings, headers without an end)
and connections without a call never reach Python; here they show as bytes that no call accounts for, and as connections
that end without a call.
"""

import dataclasses
from typing import Final

# Bytes of frames and TLS records around a message, as a share of it.
_OVERHEAD: Final = 0.1
# Bytes that no call accounts for: a connection may send so many a second, and so many at once; twice as many after a
# time without any.
_BURST: Final = 8 << 20
_RATE: Final = 1 << 20
# A connection that ends within this time and without a call was of no use.
_SHORT_SECONDS: Final = 1.0


@dataclasses.dataclass
class Traffic:
    """What one connection has sent.

    Attributes:
        since: when it was first seen; monotonic seconds.
        called: whether it has made a call.
    """

    since: float
    called: bool = False
    _awaited: int = 0
    _accounted: float = 0.0
    _received: int = 0
    _excess: float = 0.0
    _measured: float = 0.0

    def note(self, size: int, awaited: int = 0) -> None:
        """Accounts for bytes of a call.

        Args:
            size: number of bytes.
            awaited: change of the number of bytes that were requested and have not come.
        """
        self.called = True
        self._accounted += (1.0 + _OVERHEAD) * size
        self._awaited += awaited

    def exceeds(self, received: int, now: float) -> bool:
        """Measures again; returns whether the connection has sent too many bytes that no call accounts for.

        Args:
            received: bytes that the connection has received since it began.
            now: monotonic seconds.
        """
        allowed = _RATE * (now - (self._measured or self.since)) + self._accounted
        self._excess = max(-_BURST, self._excess + received - self._received - allowed)
        self._received, self._accounted, self._measured = received, 0.0, now
        return self._excess > _BURST + self._awaited

    def was_useless(self, now: float) -> bool:
        """Returns whether a connection that ends now was short, and without a call."""
        return not self.called and now - self.since < _SHORT_SECONDS
