"""Probes the store with test writes, for the health status."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from typing import Final

import structlog

from thetaprime.server.store import Store, tables
from thetaprime.server.telemetry.instrumented_store import InstrumentedStore

_PROBE_BYTES: Final = 4096
# With one second between test writes, the status is at most two seconds old.
_HUNG_SECONDS: Final = 0.9

_log = structlog.get_logger()


def probe_store(store: Store) -> None:
    """Writes a blob and a row to the store, as a call would, and deletes the blob; checks the clock.

    Raises:
        Exception: the error of the disk or the database.
    """
    store.database.check_in_place()
    store.database.check_clock()
    if store.blobs.accepts:
        digest = store.blobs.put(os.urandom(_PROBE_BYTES))
        store.blobs.delete(digest)
    with store.writing() as connection:
        connection.execute(tables.schema_info.update().values(version=tables.SCHEMA_VERSION))


async def watch_store(store: InstrumentedStore, seconds: float, on_probed: Callable[[bool], object]) -> None:
    """Probes the store periodically, until it is canceled.

    A store fails when a test write fails, or when for 0.9 s neither the test write nor another write has finished. It
    has recovered when a test write has succeeded.

    Args:
        store: the store.
        seconds: between a test write and the next one.
        on_probed: called with whether the store accepts writes.
    """
    healthy = True

    def report(problem: str) -> None:
        nonlocal healthy
        if healthy and problem:
            _log.error("store failed", problem=problem)
        elif not healthy and not problem:
            _log.info("store recovered")
        healthy = not problem
        on_probed(healthy)

    while True:
        await asyncio.sleep(seconds)
        writes, probe = store.writes, _start_probe(store)
        while not (await asyncio.wait([probe], timeout=_HUNG_SECONDS))[0]:
            # Behind other writes that finish, the store is busy.
            if store.writes == writes:
                report(f"no write has finished for {_HUNG_SECONDS:g} s")
            writes = store.writes
        error = probe.exception()
        report(_problem(error) if error else "")


def _problem(error: BaseException) -> str:
    """Returns an error in one line, with the first line of its cause: clients do not see that one."""
    cause = str(error.__cause__ or "").splitlines()
    return f"{type(error).__name__}: {error}" + (f" ({cause[0]})" if cause else "")


def _start_probe(store: Store) -> "asyncio.Future[None]":
    """Runs `probe_store` on a thread that cannot delay the exit of the process: a probe of a hung disk never ends."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def settle(error: Exception | None) -> None:
        if ended.cancelled():
            return
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)

    def run() -> None:
        failure = None
        try:
            probe_store(store)
        # Any failure of a test write is a failure of the store.
        except Exception as error:
            failure = error
        # RuntimeError: the server has ended meanwhile, and closed its event loop.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, failure)

    threading.Thread(target=run, name="probe", daemon=True).start()
    return ended
