"""Runs a server: in this process, as several worker processes, or on a thread.

Only a process that serves calls imports torch.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import structlog

from thetaprime.server.config import ServerConfig
from thetaprime.server.logging import adopt_library_logs, configure_logging, flush_logs
from thetaprime.server.runtime.stopping import EXIT_SECONDS, SUPERVISOR_EXIT_SECONDS, stop_on_signals


async def serve(config: ServerConfig, on_ready: Callable[[str], None]) -> None:
    """Runs a server until SIGTERM or SIGINT, then drains it.

    Args:
        config: the settings. With several `workers`, this process supervises them and takes no calls.
        on_ready: called with ``host:port`` once the server, with all its workers, accepts calls.

    Raises:
        StartupError: the server cannot start.
        WorkersError: a worker keeps ending.
    """
    if config.workers > 1:
        await _serve_with_workers(config, on_ready)
        return
    with _logging(config):
        from thetaprime.server.runtime.process import serve_until

        with stop_on_signals(config.drain_seconds + EXIT_SECONDS) as stop_event:
            await serve_until(stop_event, config, on_ready)


async def _serve_with_workers(config: ServerConfig, on_ready: Callable[[str], None]) -> None:
    from thetaprime.server.runtime.workers.fork_server import ForkServer, ForkServerError

    with contextlib.ExitStack() as running:
        try:
            # First: the log is written by a thread.
            fork_server = running.enter_context(ForkServer(has_metrics=bool(config.metrics_address)))
        except ForkServerError as error:
            from thetaprime.server.errors import StartupError

            raise StartupError(str(error)) from error
        running.enter_context(_logging(config))
        # While the fork server imports torch, this process imports the rest.
        from thetaprime.server.runtime.workers.supervisor import supervise

        with stop_on_signals(config.drain_seconds + SUPERVISOR_EXIT_SECONDS) as stop_event:
            await supervise(config, stop_event, on_ready, fork_server)


@contextlib.contextmanager
def _logging(config: ServerConfig) -> Iterator[None]:
    configure_logging(config.log_level, audited=True)
    adopt_library_logs(config.log_level)
    try:
        yield
    finally:
        # An error is printed below the log.
        flush_logs()


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
