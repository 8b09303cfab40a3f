"""Runs a server: in this process, as several worker processes, or on a thread.

Only a process that serves calls imports torch.
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
    """Runs a server until SIGTERM or SIGINT, then drains it.

    Args:
        config: the settings. With several `workers`, this process supervises them and takes no calls.
        on_ready: called with ``host:port`` once the server, with all its workers, accepts calls.

    Raises:
        StartupError: the server cannot start.
        WorkersError: a worker keeps ending.
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
    """Returns an event that SIGTERM or SIGINT sets."""
    stop_event, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop_event.set)
    return stop_event


@contextlib.contextmanager
def running_server(config: ServerConfig) -> Iterator[str]:
    """Runs a server on a thread of this process, for tests and for embedding; yields its ``host:port``.

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
        futures: list[Future[Any]] = [ready, ended]
        wait(futures, return_when=FIRST_COMPLETED)
        if ready.done():
            address, stop = ready.result()
            try:
                yield address
            finally:
                stop()
        ended.result()
