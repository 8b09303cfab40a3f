"""Guards the sweep against a system clock that jumped ahead."""

import time
from collections.abc import Callable
from typing import Final

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects.sqlite import insert

from thetaprime.server.store import tables
from thetaprime.server.store.database import Store

_HOUR: Final = 3600.0
_clock = tables.clock

_log = structlog.get_logger()


class ClockGuard:
    """Decides whether a sweep may delete what the system's clock calls expired.

    The store records the time of each trusted sweep. A clock that is more than an hour ahead of the last one may be
    wrong, or the server may have been off: the clock is trusted once this process has seen it ahead for an hour. The
    operator, or NTP, has that hour to correct it. Data is deleted an hour late at most.

    Args:
        store: the store.
        monotonic: a clock that never jumps, in seconds.
    """

    def __init__(self, store: Store, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._monotonic = monotonic
        self._ahead_since: float | None = None

    def trusts_clock(self) -> bool:
        """Returns whether to sweep now; if so, records the time.

        Raises:
            ServiceError: the store failed.
        """
        with self._store.writing() as connection:
            now = self._store.now()
            last = connection.scalar(sa.select(_clock.c.last_sweep))
            ahead = 0.0 if last is None else (now - last) / 1e6
            if ahead > _HOUR and not self._has_waited(ahead):
                return False
            self._ahead_since = None
            row = {"id": 1, "last_sweep": now}
            connection.execute(insert(_clock).values(row).on_conflict_do_update(index_elements=["id"], set_=row))
        return True

    def _has_waited(self, ahead: float) -> bool:
        if self._ahead_since is None:
            self._ahead_since = self._monotonic()
            _log.warning("sweep postponed", hours_since_last=round(ahead / _HOUR, 2))
        return self._monotonic() - self._ahead_since >= _HOUR
