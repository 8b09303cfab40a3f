"""Stops a server process at SIGTERM or SIGINT, within a bound."""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Final

import structlog

from thetaprime.server.logging import flush_logs

EXIT_SECONDS: Final = 1.4
"""From the end of the grace period to the forced end of a process that serves calls."""
KILL_SECONDS: Final = 1.7
"""From the end of the grace period until the supervisor kills a worker."""
SUPERVISOR_EXIT_SECONDS: Final = 1.9
"""From the end of the grace period to the forced end of the supervisor."""

_log = structlog.get_logger()


class StopEvent(asyncio.Event):
    """Ends the server when it is set; ends the process if it still runs after `seconds`.

    A drain can hang in a thread: no thread that waits for a hung disk can be stopped. What was acknowledged is durable,
    so nothing is lost.

    Args:
        seconds: the bound.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._timer = threading.Timer(seconds, _end_process)
        self._timer.daemon = True

    def set(self) -> None:
        """Sets the event, and starts the time."""
        if not self.is_set():
            self._timer.start()
        super().set()

    def cancel(self) -> None:
        """Lets the process run on."""
        self._timer.cancel()


@contextlib.contextmanager
def stop_on_signals(seconds: float) -> Iterator[StopEvent]:
    """Yields an event that SIGTERM or SIGINT sets; the process then ends with the context, or after `seconds`."""
    stop_event, loop = StopEvent(seconds), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop_event.set)
    try:
        yield stop_event
    finally:
        stop_event.cancel()


def _end_process() -> None:
    _log.warning("not drained in time")
    flush_logs()
    os._exit(0)
