"""Running a server: in this process, as several processes, or on a thread of somebody else's.

Nothing here imports torch before it is known that this very process is going to serve.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import structlog

from thetaprime.server.config import ServerConfig
from thetaprime.server.logging import adopt_library_logs, configure_logging


async def serve(config: ServerConfig, on_ready: Callable[[str], None]) -> None:
    """Runs a server until the process is told to stop (SIGTERM or SIGINT), then drains it.

    Args:
        config: the settings; with more than one of `workers`, this process starts them and watches over them.
        on_ready: called with ``host:port`` once calls are taken, by all of them.

    Raises:
        StartupError: the server cannot start.
        WorkersError: the processes do not stay alive.
    """
    configure_logging()
    adopt_library_logs()
    stop_event = stop_on_signals()
    if config.workers > 1:
        from thetaprime.server.runtime.workers import supervise

        await supervise(config, stop_event, on_ready)
    else:
        from thetaprime.server.runtime.process import serve_until

        await serve_until(stop_event, config, on_ready)


def stop_on_signals() -> asyncio.Event:
    """Set once SIGTERM or SIGINT comes to this process."""
    stop_event, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop_event.set)
    return stop_event


@contextlib.contextmanager
def running_server(config: ServerConfig) -> Iterator[str]:
    """A server on a thread of this process, for tests and for embedding; yields its ``host:port``.

    Raises:
        StartupError: the server cannot start.
    """
    from thetaprime.server.runtime.lifecycle import listening

    if not structlog.is_configured():
        configure_logging(logging.WARNING)
    ready: Future[tuple[str, Callable[[], object]]] = Future()

    async def run() -> None:
        stop_event, loop = asyncio.Event(), asyncio.get_running_loop()
        async with listening(config) as address:
            ready.set_result((address, lambda: loop.call_soon_threadsafe(stop_event.set)))
            await stop_event.wait()

    with ThreadPoolExecutor(1, thread_name_prefix="thetaprime-server") as thread:
        ended = thread.submit(asyncio.run, run())
        either: list[Future[Any]] = [ready, ended]
        wait(either, return_when=FIRST_COMPLETED)
        if ready.done():
            address, stop = ready.result()
            try:
                yield address
            finally:
                stop()
        ended.result()
