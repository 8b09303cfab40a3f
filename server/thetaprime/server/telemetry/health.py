"""The `grpc.health.v1` service: SERVING while the server accepts calls and the store accepts writes."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from thetaprime.server.telemetry.metrics import Metrics

_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN: Final = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the package has no types
    """The health status of a server and of each of its services.

    No change waits for a watcher: the servicer of grpcio-health-checking writes to a watcher while it holds the lock of
    the status, so one watcher that does not read freezes the status for everybody.

    Args:
        services: names of the services; ``""``, the server as a whole, is added.
        metrics: its `serving` gauge follows the status.
    """

    def __init__(self, services: Sequence[str], metrics: Metrics) -> None:
        self._services = frozenset(("", *services))
        self._metrics = metrics
        self._status = _SERVING
        self._draining = False
        # Replaced at each change: a watcher waits for the event that it read together with the status.
        self._changed = asyncio.Event()

    def set_serving(self, serving: bool) -> None:
        """Sets the status, unless the server drains."""
        if not self._draining:
            self._set(_SERVING if serving else _NOT_SERVING)

    def drain(self) -> None:
        """Sets the status to NOT_SERVING permanently."""
        self._draining = True
        self._set(_NOT_SERVING)

    def _set(self, status: "health_pb2.HealthCheckResponse.ServingStatus") -> None:
        self._metrics.serving.set(status == _SERVING)
        self._status = status
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(  # noqa: N802 - the name of the RPC
        self, request: "health_pb2.HealthCheckRequest", context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> "health_pb2.HealthCheckResponse":
        """Returns the status of a service; NOT_FOUND for an unknown one."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return health_pb2.HealthCheckResponse(status=self._status)

    async def Watch(  # noqa: N802 - the name of the RPC
        self, request: "health_pb2.HealthCheckRequest", context: object
    ) -> "AsyncIterator[health_pb2.HealthCheckResponse]":
        """Yields the status of a service, and the newest status after each change.

        A watcher that reads slowly misses the statuses in between.
        """
        sent = None
        while True:
            changed = self._changed
            status = self._status if request.service in self._services else _SERVICE_UNKNOWN
            if status != sent:
                yield health_pb2.HealthCheckResponse(status=status)
                sent = status
            await changed.wait()
