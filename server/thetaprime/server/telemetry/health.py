"""The `grpc.health.v1` service: SERVING while the server accepts calls and the store accepts writes."""

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
# Longer than the database's timeout for its write lock.
_HUNG_SECONDS: Final = 20.0
_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING

_log = structlog.get_logger()


def probe_store(store: Store) -> None:
    """Writes a blob and a row to the store, as a call would, and deletes the blob.

    Raises:
        Exception: the error of the disk or the database.
    """
    digest = store.blobs.put(os.urandom(_PROBE_BYTES))
    store.blobs.delete(digest)
    with store.writing() as connection:
        connection.execute(tables.schema_info.update().values(version=tables.SCHEMA_VERSION))


class Health:
    """The health status of each service of a server.

    Args:
        services: names of the services; ``""``, the server as a whole, is added.
        metrics: its `serving` gauge follows the status.

    Attributes:
        servicer: answers health checks.
    """

    def __init__(self, services: Sequence[str], metrics: Metrics) -> None:
        self.servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._services = ("", *services)
        self._metrics = metrics
        self._draining = False

    async def set_serving(self) -> None:
        """Sets the status to SERVING."""
        await self._set(_SERVING)

    async def drain(self) -> None:
        """Sets the status to NOT_SERVING permanently."""
        self._draining = True
        self._metrics.serving.set(0)
        await self.servicer.enter_graceful_shutdown()

    async def watch_store(self, store: Store, seconds: float) -> None:
        """Probes the store every `seconds`; the status is NOT_SERVING from the first failure until the next success."""
        healthy, loop = True, asyncio.get_running_loop()
        # A separate thread: all others may be blocked in the store.
        with ThreadPoolExecutor(1, thread_name_prefix="probe") as thread:
            while True:
                await asyncio.sleep(seconds)
                trial = loop.run_in_executor(thread, probe_store, store)
                ended, _ = await asyncio.wait([trial], timeout=_HUNG_SECONDS)
                problem = _describe_failure(trial) if ended else f"a write has not finished after {_HUNG_SECONDS:g} s"
                if healthy and problem:
                    _log.error("store failed", problem=problem)
                elif not healthy and not problem:
                    _log.info("store recovered")
                healthy = not problem
                await self._set(_SERVING if healthy else _NOT_SERVING)
                await asyncio.wait([trial])

    async def _set(self, status: "health_pb2.HealthCheckResponse.ServingStatus") -> None:
        if self._draining:
            return
        self._metrics.serving.set(status == _SERVING)
        for service in self._services:
            await self.servicer.set(service, status)


def _describe_failure(trial: "asyncio.Future[None]") -> str:
    error = trial.exception()
    # A store that is busy with long writes has not failed.
    if error is None or isinstance(error, UnavailableError):
        return ""
    return f"{type(error).__name__}: {error}"
