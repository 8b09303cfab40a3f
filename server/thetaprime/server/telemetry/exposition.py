"""Serves metrics to Prometheus over HTTP."""

import contextlib
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, start_http_server

from thetaprime.server.address import split_address
from thetaprime.server.errors import StartupError


@contextlib.contextmanager
def serve_metrics(registry: CollectorRegistry, address: str) -> Iterator[str]:
    """Serves metrics over HTTP, on every path, for the duration of the context.

    Args:
        registry: the metrics.
        address: ``host:port`` to listen on; port 0 takes any free port. If empty, no port is opened.

    Yields:
        The ``host:port`` that it listens on; empty if no port is open.

    Raises:
        StartupError: it cannot listen there.
    """
    if not address:
        yield ""
        return
    try:
        host, port = split_address(address)
        server, thread = start_http_server(port, host or "0.0.0.0", registry)  # noqa: S104 - the operator's choice
    except (OSError, ValueError) as error:
        raise StartupError(f"metrics address {address}: {error}") from error
    try:
        yield f"{address.rpartition(':')[0]}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
