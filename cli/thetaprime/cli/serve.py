"""``thetaprime serve``."""

import asyncio
from typing import Any, Final

import click

from thetaprime.cli._command import Command, option
from thetaprime.cli._options import options_from
from thetaprime.server.runtime.tuning import freeze_startup_objects

with freeze_startup_objects():
    from thetaprime.server.config import ServerConfig

SECTIONS: Final = {
    "Address": ("config", "address", "tls_certificate", "tls_key", "tls_client_authority", "allow_plaintext", "tokens"),
    "Connections": (
        "max_connections",
        "max_address_connections",
        "handshake_seconds",
        "connection_idle",
        "connection_age",
        "block_seconds",
    ),
    "Meta-policies": ("zoo", "catalog_seconds", "max_artifact_file_bytes", "max_artifact_bytes", "max_parameters"),
    "Store": ("store", "blobs", "store_connections", "row_bytes", "recent_bytes"),
    "Monitoring": ("metrics_address", "probe_seconds", "reflection", "log_level", "tracing"),
    "Processes": ("workers", "adaptation_threads", "queue"),
    "Limits of the server": (
        *("max_sessions", "max_inflight_bytes", "max_address_bytes", "max_address_calls", "max_connection_calls"),
        *("request_seconds", "reply_seconds"),
        *("max_upload_bytes", "max_upload_trajectories", "max_upload_steps"),
        *("max_round_uploads", "max_round_trajectories", "max_round_steps", "upload_idle", "upload_seconds"),
    ),
    "Limits of each tenant": (
        *("max_tenant_sessions", "max_tenant_bytes", "max_tenant_steps", "max_tenant_adaptations_per_second"),
        "max_tenant_requests_per_second",
    ),
    "Lifetimes": ("default_ttl", "max_ttl", "keep_policies"),
    "Shutdown": ("drain_notice", "grace"),
}
"""The fields of `ServerConfig`, by section of ``--help``."""


@click.command(
    cls=Command,
    examples=(
        "thetaprime serve --store ./state",
        "thetaprime serve --store postgresql://thetaprime@database/thetaprime --blobs s3://bucket/thetaprime",
        "thetaprime serve --address 0.0.0.0:50051 --tls-certificate tls.pem --tls-key tls.key --tokens tokens.toml",
        "thetaprime serve --config server.toml --show-config",
        "THETAPRIME_SERVER_MAX_SESSIONS=500 thetaprime serve --zoo ./zoo",
    ),
)
@options_from(ServerConfig, sections=SECTIONS)
@option("--show-config", is_flag=True, help="Print every setting with its value, as TOML, and exit.")
def command(given: dict[str, Any], show_config: bool) -> None:
    """Serve meta-policies for adaptation, over gRPC.

    Prints `serving on HOST:PORT` on stdout once it accepts calls, and logs on stderr. SIGTERM and Ctrl-C let running
    calls finish. With --workers N, N processes share the address and the store.

    Every option has an environment variable: --max-sessions has THETAPRIME_SERVER_MAX_SESSIONS. The file that --config
    names may set it too, as max_sessions. Options override the environment, and the environment overrides the file.
    """
    with freeze_startup_objects():
        from thetaprime.server import as_toml, serve

    config = ServerConfig(**given)
    if show_config:
        click.echo(as_toml(config), nl=False)
        return
    asyncio.run(serve(config, lambda address: click.echo(f"serving on {address}")))
