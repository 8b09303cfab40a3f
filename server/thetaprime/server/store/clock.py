"""Guards the sweep against a system clock that jumped ahead."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
import structlog

from thetaprime.server.store import tables
from thetaprime.server.store.locks import try_lock

if TYPE_CHECKING:
    from thetaprime.server.store.store import Store

_HOUR: Final = 3600.0
_clock = tables.clock

_log = structlog.get_logger()


def seconds_since_sweep(connection: sa.Connection, now: int) -> float:
    """Returns the seconds from the last trusted sweep to `now` (microseconds since 1970); 0 before the first."""
    last = connection.scalar(sa.select(_clock.c.last_sweep))
    return 0.0 if last is None else (now - last) / 1e6


def may_delete_expired(connection: sa.Connection, now: int) -> bool:
    """Returns whether a call may delete what has expired at `now`: the clock agrees with the last sweep to an hour."""
    return seconds_since_sweep(connection, now) <= _HOUR


class ClockGuard:
    """Decides whether a sweep may delete what the system's clock calls expired.

    The store records the time of each trusted sweep. A clock that is more than an hour ahead of the last one may be
    wrong, or the server may have been off: the clock is trusted once this process has seen it ahead for an hour. The
    operator, or NTP, has that hour to correct it. Data is deleted an hour late at most.

    Args:
        store: the store.
        monotonic: a clock that never jumps, in seconds.
    """

    def __init__(self, store: "Store", monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._monotonic = monotonic
        self._ahead_since: float | None = None

    def trusts_clock(self) -> bool:
        """Returns whether to sweep now; if so, records the time.

        Raises:
            ServiceError: the store failed.
        """
        with self._store.writing() as connection:
            if not try_lock(connection, "sweep"):
                # Another server process is at it.
                return False
            now = self._store.now()
            ahead = seconds_since_sweep(connection, now)
            if ahead > _HOUR and not self._has_waited(ahead):
                return False
            self._ahead_since = None
            if not connection.execute(_clock.update().values(last_sweep=now)).rowcount:
                connection.execute(_clock.insert().values(id=1, last_sweep=now))
        return True

    def _has_waited(self, ahead: float) -> bool:
        if self._ahead_since is None:
            self._ahead_since = self._monotonic()
            _log.warning("sweep postponed", hours_since_last=round(ahead / _HOUR, 2))
        return self._monotonic() - self._ahead_since >= _HOUR
