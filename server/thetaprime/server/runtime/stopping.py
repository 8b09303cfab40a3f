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
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

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
        self._starting = threading.Lock()

    def set(self) -> None:
        """Sets the event, and starts the time."""
        self.start_time()
        super().set()

    def start_time(self) -> None:
        """Starts the time, unless it runs. Thread-safe."""
        if self._starting.acquire(blocking=False):
            self._timer.start()

    def cancel(self) -> None:
        """Lets the process run on."""
        self._timer.cancel()


@contextlib.contextmanager
def stop_on_signals(seconds: float) -> Iterator[StopEvent]:
    """Yields an event that SIGTERM or SIGINT sets; the process then ends with the context, or after `seconds`.

    A thread receives the signals, so that a process whose event loop hangs ends too.
    """
    stop_event, loop = StopEvent(seconds), asyncio.get_running_loop()
    reading, writing = os.pipe()
    # Python writes the number of each signal to the pipe, at once.
    os.set_blocking(writing, False)
    earlier_pipe = signal.set_wakeup_fd(writing)
    earlier_handlers = [signal.signal(number, lambda *_: None) for number in _SIGNALS]

    def receive() -> None:
        while number := os.read(reading, 1):
            if number[0] in _SIGNALS:
                stop_event.start_time()
                loop.call_soon_threadsafe(stop_event.set)
        os.close(reading)

    threading.Thread(target=receive, name="signals", daemon=True).start()
    try:
        yield stop_event
    finally:
        stop_event.cancel()
        for number, handler in zip(_SIGNALS, earlier_handlers, strict=True):
            signal.signal(number, handler)
        signal.set_wakeup_fd(earlier_pipe)
        os.close(writing)


def _end_process() -> None:
    _log.warning("not drained in time")
    flush_logs()
    os._exit(0)
