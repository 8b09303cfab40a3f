"""What a server does from time to time, beside its calls."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import structlog

from thetaprime.server.auth import audit
from thetaprime.server.runtime.components import Components
from thetaprime.server.store import SweptSession

_SWEEP_SECONDS: Final = 600.0
_EXPIRE_SECONDS: Final = 60.0

_log = structlog.get_logger()


def background_tasks(parts: Components, *, sweeping: bool) -> list[Coroutine[Any, Any, None]]:
    """To be run as tasks until the server drains.

    Args:
        parts: of the server.
        sweeping: whether this process clears out what expired in the store.
    """
    config, threads, store = parts.config, parts.threads, parts.store
    found = [
        _repeat("catalog scan failed", parts.watch.scan, threads, config.catalog_seconds),
        # What a session leaves in memory goes within minutes of its last call.
        _repeat("expiry failed", store.recent.expire, threads, _EXPIRE_SECONDS),
        parts.health.watch(store, config.probe_seconds),
    ]
    if sweeping:
        found.append(_sweep(parts))
    return found


async def _sweep(parts: Components) -> None:
    """Clears out what nobody can ask for any more: at the start, and from time to time."""
    await _try("sweep failed", parts.store.sweep_orphans, parts.threads)
    while True:
        await _try("sweep failed", lambda: parts.store.sweep(_note), parts.threads)
        await asyncio.sleep(_SWEEP_SECONDS)


def _note(gone: SweptSession) -> None:
    audit.record_end(gone.what, gone.tenant, gone.session_id, gone.policy_id, gone.round)


async def _repeat(failed: str, chore: Callable[[], object], threads: ThreadPoolExecutor, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        await _try(failed, chore, threads)


async def _try(failed: str, chore: Callable[[], object], threads: ThreadPoolExecutor) -> None:
    """Runs what blocks on a thread. Calls do not depend on it, and the next time it may succeed."""
    try:
        await asyncio.get_running_loop().run_in_executor(threads, chore)
    except Exception:
        _log.exception(failed)
