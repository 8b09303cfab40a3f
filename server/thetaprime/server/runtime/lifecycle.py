"""How a server lives: it is made, takes calls, and drains without losing what it has begun."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

import grpc
import structlog
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from thetaprime.server import failpoints
from thetaprime.server.address import is_unix_socket
from thetaprime.server.auth import server_credentials
from thetaprime.server.config import ServerConfig
from thetaprime.server.errors import StartupError
from thetaprime.server.runtime.background_tasks import background_tasks
from thetaprime.server.runtime.components import SERVICES, Components, made
from thetaprime.server.telemetry.exposition import exposed
from thetaprime.server.telemetry.server_info import add_server_info
from thetaprime.v1 import adaptation_service_pb2_grpc, meta_policy_service_pb2_grpc
from thetaprime.wire import CHUNK_BYTES

# One chunk with its envelope, and nothing much larger.
_MESSAGE_BYTES: Final = 2 * CHUNK_BYTES
# When no call is left, replies may still be on their way, and health checks may be watching.
_LAST_REPLIES_SECONDS: Final = 1.0

_log = structlog.get_logger()


@contextlib.asynccontextmanager
async def listening(config: ServerConfig, *, worker: int | None = None) -> AsyncIterator[str]:
    """A server that takes calls within the context, and drains when it ends; yields its ``host:port``.

    Args:
        config: the settings. One process it is, however many `workers` there are to be.
        worker: which of several processes on one address this is, counted from 0. They share a port that is held for
            them, and somebody else serves the metrics of all. None where it is alone.

    Raises:
        StartupError: the catalog, the store, the address, a TLS file or the tokens file cannot be used.
    """
    credentials = server_credentials(config)
    async with made(config) as parts:
        with contextlib.ExitStack() as open_ports:
            if worker is None:
                registry = parts.metrics.registry
                add_server_info(registry, config, parts.store)
                if metrics_address := open_ports.enter_context(exposed(registry, config.metrics_address)):
                    _log.info("metrics", address=metrics_address)
            server = _grpc_server(parts, shared=worker is not None)
            address = _bind(server, config.address, credentials)
            await parts.health.serve()
            failpoints.reach("start.serving")
            await server.start()
            # What one process of several does for all of them, the first one does.
            tasks = [asyncio.create_task(chore) for chore in background_tasks(parts, sweeping=not worker)]
            try:
                yield address
            finally:
                await _drain(parts, server, tasks)


def _grpc_server(parts: Components, *, shared: bool) -> grpc.aio.Server:
    server = grpc.aio.server(
        interceptors=[parts.calls],
        options=[
            ("grpc.max_receive_message_length", _MESSAGE_BYTES),
            # A chunk comes in one go: with less, its sender waits for leave to send the rest.
            ("grpc.http2.lookahead_bytes", 2 * _MESSAGE_BYTES),
            ("grpc.so_reuseport", int(shared)),
        ],
    )
    adaptation_service_pb2_grpc.add_AdaptationServiceServicer_to_server(parts.adaptation, server)
    meta_policy_service_pb2_grpc.add_MetaPolicyServiceServicer_to_server(parts.meta_policies, server)
    health_pb2_grpc.add_HealthServicer_to_server(parts.health.servicer, server)
    reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return server


def _bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> str:
    """Binds the server to an address; returns the address with its actual port."""
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise StartupError(f"address {address}: cannot listen there; is it in use?") from error
    return address if is_unix_socket(address) else f"{address.rpartition(':')[0]}:{port}"


async def _drain(parts: Components, server: grpc.aio.Server, tasks: list[asyncio.Task[None]]) -> None:
    await parts.health.drain()
    await _notice(parts.config.drain_notice)
    parts.calls.drain()
    for task in tasks:
        task.cancel()
    await _finish(parts)
    await server.stop(_LAST_REPLIES_SECONDS)


async def _notice(seconds: float) -> None:
    """Takes calls a little longer, for load balancers to see that they should send no more."""
    await asyncio.sleep(seconds)


async def _finish(parts: Components) -> None:
    grace = parts.config.grace
    try:
        async with asyncio.timeout(grace):
            await parts.calls.finish()
            await parts.engine.finish()
    except TimeoutError:
        _log.warning("calls were still running after the grace period", grace=grace)
