"""Supervises the workers of a server. Never imports torch: the fork server does."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from thetaprime.server.config import ServerConfig
from thetaprime.server.runtime.workers.fork_server import ForkServer
from thetaprime.server.telemetry import worker_metrics


async def supervise(config: ServerConfig, stop_event: asyncio.Event, on_ready: Callable[[str], None]) -> None:
    """Runs the workers of a server until the event is set, then drains them.

    Args:
        config: the settings.
        stop_event: ends the server.
        on_ready: called with ``host:port`` once all workers accept calls.

    Raises:
        StartupError: a worker cannot start, or the address, the store or the metrics address cannot be used.
        WorkersError: a worker keeps ending.
    """
    with _metrics_folder(config) as folder:
        environment = {} if folder is None else {worker_metrics.VARIABLE: str(folder)}
        with ForkServer(environment) as fork_server:
            # Meanwhile the fork server imports torch.
            from thetaprime.server.runtime.workers.serving import serve_with_workers

            await serve_with_workers(config, stop_event, on_ready, folder, fork_server)


@contextlib.contextmanager
def _metrics_folder(config: ServerConfig) -> Iterator[Path | None]:
    """Yields a temporary folder for the workers' metrics; None if no metrics are served."""
    if not config.metrics_address:
        yield None
        return
    with TemporaryDirectory(prefix="thetaprime-metrics-", ignore_cleanup_errors=True) as name:
        yield Path(name)
