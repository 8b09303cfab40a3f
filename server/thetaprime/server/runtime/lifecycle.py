"""The lifecycle of a server: build its components, accept calls, drain."""

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
from thetaprime.server.logging import report_omitted_library_lines
from thetaprime.server.rpc.server_options import server_options
from thetaprime.server.runtime.background_tasks import start_background_tasks
from thetaprime.server.runtime.components import SERVICES, Components, build_components
from thetaprime.server.telemetry.exposition import serve_metrics
from thetaprime.server.telemetry.server_info import register_server_info, register_worker_ends
from thetaprime.v1 import adaptation_service_pb2_grpc, meta_policy_service_pb2_grpc

# Once no call is running, replies may still be in transit, and health checks may be watching.
_LAST_REPLIES_SECONDS: Final = 0.5

_log = structlog.get_logger()


@contextlib.asynccontextmanager
async def listening(config: ServerConfig, *, worker: int | None = None) -> AsyncIterator[str]:
    """Runs a server for the duration of the context, and drains it at the end.

    Args:
        config: the settings. `workers` has no effect here: the server runs in this process.
        worker: number of this worker, from 0. Workers share a port that the supervisor holds, and the supervisor serves
            their metrics. None for a single process.

    Yields:
        Its ``host:port``.

    Raises:
        StartupError: the catalog, the store, the address, a TLS file or the tokens file cannot be used.
    """
    credentials = server_credentials(config)
    async with build_components(config) as components:
        with contextlib.ExitStack() as open_ports:
            if worker is None:
                registry = components.metrics.registry
                register_server_info(registry, config, components.store)
                register_worker_ends(registry)
                if metrics_address := open_ports.enter_context(serve_metrics(registry, config.metrics_address)):
                    _log.info("metrics", address=metrics_address)
            server = _build_grpc_server(components, shared=worker is not None)
            address = _bind(server, config.address, credentials)
            open_ports.enter_context(components.connections.watch(address))
            components.health.set_serving(True)
            failpoints.reach("start.serving")
            await server.start()
            # One process sweeps for all workers.
            tasks = start_background_tasks(components, sweeping=worker in (None, 0))
            try:
                yield address
            finally:
                await _drain(components, server, tasks)


def _build_grpc_server(components: Components, *, shared: bool) -> grpc.aio.Server:
    server = grpc.aio.server(
        interceptors=[components.calls],
        options=server_options(components.config, shared=shared),
    )
    adaptation_service_pb2_grpc.add_AdaptationServiceServicer_to_server(components.adaptation, server)
    meta_policy_service_pb2_grpc.add_MetaPolicyServiceServicer_to_server(components.meta_policies, server)
    health_pb2_grpc.add_HealthServicer_to_server(components.health, server)
    if components.config.reflection:
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return server


def _bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> str:
    """Binds the server to an address; returns the address with the port that the system chose."""
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise StartupError(f"address {address}: cannot listen there; is it in use?") from error
    return address if is_unix_socket(address) else f"{address.rpartition(':')[0]}:{port}"


async def _drain(components: Components, server: grpc.aio.Server, tasks: list[asyncio.Task[None]]) -> None:
    components.health.drain()
    await _wait_for_load_balancers(components.config.drain_notice)
    components.calls.drain()
    for task in tasks:
        task.cancel()
    await _finish_calls(components)
    components.calls.report_omitted_lines()
    components.connections.report_omitted_lines()
    report_omitted_library_lines()
    await server.stop(_LAST_REPLIES_SECONDS)


async def _wait_for_load_balancers(seconds: float) -> None:
    """Accepts calls a little longer, while load balancers notice NOT_SERVING."""
    await asyncio.sleep(seconds)


async def _finish_calls(components: Components) -> None:
    grace = components.config.grace
    try:
        async with asyncio.timeout(grace):
            await components.calls.finish()
            await components.engine.finish()
    except TimeoutError:
        _log.warning("calls were still running after the grace period", grace=grace)
