"""The port that Prometheus scrapes."""

import contextlib
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, start_http_server

from thetaprime.server.address import split_address
from thetaprime.server.errors import StartupError


@contextlib.contextmanager
def exposed(registry: CollectorRegistry, address: str) -> Iterator[str]:
    """Serves metrics over HTTP, under every path, for as long as the context lasts.

    Args:
        registry: what to serve.
        address: ``host:port`` to listen on, where port 0 takes any free one; empty to serve nothing.

    Yields:
        The ``host:port`` that it listens on, or nothing.

    Raises:
        StartupError: it cannot listen there.
    """
    if not address:
        yield ""
        return
    try:
        host, port = split_address(address)
        server, thread = start_http_server(port, host or "0.0.0.0", registry)  # noqa: S104 - as asked
    except (OSError, ValueError) as error:
        raise StartupError(f"metrics address {address}: {error}") from error
    try:
        yield f"{address.rpartition(':')[0]}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
