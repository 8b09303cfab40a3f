"""A process that is one server, from its first import to its end."""

import asyncio
import contextlib
import sys
from collections.abc import Callable
from typing import Final

import structlog

from thetaprime.server import failpoints
from thetaprime.server.config import ServerConfig
from thetaprime.server.runtime.tuning import frozen_startup_objects

_log = structlog.get_logger()
# Seconds that a thread which computes in Python keeps others waiting. A call changes threads ten times, and beside
# threads that are always busy it would wait five milliseconds, Python's own figure, each time.
_SWITCH_SECONDS: Final = 0.001


async def serve_until(
    stop_event: asyncio.Event, config: ServerConfig, on_ready: Callable[[str], None], *, worker: int | None = None
) -> None:
    """Runs a server until it is told to stop, then drains it.

    Args:
        stop_event: set when it is to stop.
        config: the settings.
        on_ready: called with ``host:port`` once calls are taken.
        worker: which of several processes on one address this is, counted from 0; None where it is alone.

    Raises:
        StartupError: the server cannot start.
    """
    failpoints.arm_from_environment()
    async with contextlib.AsyncExitStack() as running:
        with frozen_startup_objects():
            from thetaprime.models import hold_freed_memory
            from thetaprime.server.runtime.lifecycle import listening
            from thetaprime.server.telemetry.tracing import exported_spans

            hold_freed_memory()
            sys.setswitchinterval(_SWITCH_SECONDS)
            if config.tracing:
                running.enter_context(exported_spans())
            address = await running.enter_async_context(listening(config, worker=worker))
        if worker is None:
            log_listening(address, config)
        on_ready(address)
        await stop_event.wait()
        _log.info("draining", grace=config.grace)
    _log.info("stopped")


def log_listening(address: str, config: ServerConfig) -> None:
    """Says, once for a server, that it takes calls."""
    zoo = [str(folder) for folder in config.zoo]
    _log.info("listening", address=address, store=str(config.store), zoo=zoo, workers=config.workers)
