"""Periodic tasks of a server: catalog scans, cache expiry, store probes, the sweep."""

import asyncio
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import structlog

from thetaprime.server.auth import audit
from thetaprime.server.logging import report_omitted_library_lines
from thetaprime.server.runtime.components import Components
from thetaprime.server.store import ClockGuard
from thetaprime.server.telemetry.store_probe import watch_store

_SWEEP_SECONDS: Final = 600.0
# Every so many sweeps, orphans too.
_ORPHAN_SWEEPS: Final = 6
_CACHE_EXPIRY_SECONDS: Final = 60.0

_log = structlog.get_logger()


def start_background_tasks(components: Components, *, sweeping: bool) -> list[asyncio.Task[None]]:
    """Starts the periodic tasks, to be canceled when the server drains.

    Args:
        components: of the server.
        sweeping: whether this process sweeps the store.
    """
    config, threads, store = components.config, components.threads, components.store
    periodic = [
        _report_every_second(components),
        _repeat("catalog scan failed", components.watch.scan, threads, config.catalog_seconds),
        _repeat("expiry failed", store.recent.expire, threads, _CACHE_EXPIRY_SECONDS),
        watch_store(store, config.probe_seconds, components.health.set_serving),
    ]
    if sweeping:
        periodic.append(_sweep(components))
    return [asyncio.create_task(each) for each in periodic]


async def _report_every_second(components: Components) -> None:
    while True:
        await asyncio.sleep(1.0)
        components.gate.close_unread()
        components.calls.report_omitted_lines()
        components.connections.report_omitted_lines()
        report_omitted_library_lines()
        components.metrics.update_log_lines_dropped()


async def _sweep(components: Components) -> None:
    """Deletes orphans, and expired sessions by a clock that is trusted, at startup and periodically."""
    guard = ClockGuard(components.store)

    def sweep() -> None:
        if guard.trusts_clock():
            components.store.sweep(audit.record_end)

    for count in itertools.count():
        if count % _ORPHAN_SWEEPS == 0:
            await _try("sweep failed", components.store.sweep_orphans, components.threads)
        await _try("sweep failed", sweep, components.threads)
        await asyncio.sleep(_SWEEP_SECONDS)


async def _repeat(failure: str, task: Callable[[], object], threads: ThreadPoolExecutor, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        await _try(failure, task, threads)


async def _try(failure: str, task: Callable[[], object], threads: ThreadPoolExecutor) -> None:
    """Runs a blocking task on a thread. A failure is logged: no call depends on it, and the next run may succeed."""
    try:
        await asyncio.get_running_loop().run_in_executor(threads, task)
    except Exception:
        _log.exception(failure)
