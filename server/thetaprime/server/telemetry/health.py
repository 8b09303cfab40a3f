"""What `grpc.health.v1` answers: SERVING only while calls are taken and the store keeps what it is given."""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import structlog
from grpc_health.v1 import health, health_pb2

from thetaprime.server.errors import UnavailableError
from thetaprime.server.store import Store, tables
from thetaprime.server.telemetry.metrics import Metrics

_PROBE_BYTES: Final = 4096
# Longer than the database waits for its turn.
_HUNG_SECONDS: Final = 20.0
_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING

_log = structlog.get_logger()


def probe(store: Store) -> None:
    """Writes to the store what a call would write: a blob, and a row.

    Raises:
        Exception: whatever the disk and the database say if it cannot be done.
    """
    digest = store.blobs.put(os.urandom(_PROBE_BYTES))
    store.blobs.delete(digest)
    with store.writing() as connection:
        connection.execute(tables.schema_info.update().values(version=tables.SCHEMA_VERSION))


class Health:
    """The status of every service of a server.

    Args:
        services: their names; the server as a whole, ``""``, is always one of them.
        metrics: told as well.

    Attributes:
        servicer: answers the checks.
    """

    def __init__(self, services: Sequence[str], metrics: Metrics) -> None:
        self.servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._services = ("", *services)
        self._metrics = metrics
        self._draining = False

    async def serve(self) -> None:
        """Says SERVING."""
        await self._set(_SERVING)

    async def drain(self) -> None:
        """Says NOT_SERVING for good."""
        self._draining = True
        self._metrics.serving.set(0)
        await self.servicer.enter_graceful_shutdown()

    async def watch(self, store: Store, seconds: float) -> None:
        """Tries the store every so many seconds, and says NOT_SERVING from the first failure to the next success."""
        healthy, loop = True, asyncio.get_running_loop()
        # A thread of its own: the others may all be stuck in the store that is being tried.
        with ThreadPoolExecutor(1, thread_name_prefix="probe") as thread:
            while True:
                await asyncio.sleep(seconds)
                trial = loop.run_in_executor(thread, probe, store)
                ended, _ = await asyncio.wait([trial], timeout=_HUNG_SECONDS)
                problem = _problem(trial) if ended else f"a write has not ended after {_HUNG_SECONDS:g} s"
                if healthy and problem:
                    _log.error("store failed", problem=problem)
                elif not healthy and not problem:
                    _log.info("store is whole again")
                healthy = not problem
                await self._set(_SERVING if healthy else _NOT_SERVING)
                await asyncio.wait([trial])

    async def _set(self, status: "health_pb2.HealthCheckResponse.ServingStatus") -> None:
        if self._draining:
            return
        self._metrics.serving.set(status == _SERVING)
        for service in self._services:
            await self.servicer.set(service, status)


def _problem(trial: "asyncio.Future[None]") -> str:
    error = trial.exception()
    # Where others write, and at length, nothing has failed.
    if error is None or isinstance(error, UnavailableError):
        return ""
    return f"{type(error).__name__}: {error}"
