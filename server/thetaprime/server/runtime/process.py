"""Runs one server process, from its first import to its exit."""

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from thetaprime.server import failpoints
from thetaprime.server.config import ServerConfig
from thetaprime.server.places import without_password
from thetaprime.server.runtime.tuning import freeze_startup_objects, tune_process

_log = structlog.get_logger()


async def serve_until(
    stop_event: asyncio.Event, config: ServerConfig, on_ready: Callable[[str], None], *, worker: int | None = None
) -> None:
    """Runs a server until the event is set, then drains it.

    Args:
        stop_event: ends the server.
        config: the settings.
        on_ready: called with ``host:port`` once the server accepts calls.
        worker: number of this worker, from 0; None for a single process.

    Raises:
        StartupError: the server cannot start.
    """
    failpoints.arm_from_environment()
    async with contextlib.AsyncExitStack() as running:
        with freeze_startup_objects():
            from thetaprime.server.runtime.lifecycle import listening
            from thetaprime.server.telemetry.tracing import export_spans

            tune_process()
            if config.tracing:
                running.enter_context(export_spans())
            address = await running.enter_async_context(listening(config, worker=worker))
        if worker is None:
            log_listening(address, config)
        on_ready(address)
        await stop_event.wait()
        _log.info("draining", grace=config.grace)
    _log.info("stopped")


def log_listening(address: str, config: ServerConfig) -> None:
    """Logs, once for a server, that it accepts calls."""
    zoo = [str(folder) for folder in config.zoo]
    _log.info("listening", address=address, store=without_password(config.store), zoo=zoo, workers=config.workers)
