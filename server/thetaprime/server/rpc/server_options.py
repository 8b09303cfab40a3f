"""The options of the gRPC server: what its core may keep and do for a peer."""

import os
from typing import Final

import structlog

from thetaprime.server.config import ServerConfig
from thetaprime.server.rpc.gate import MESSAGE_BYTES

_PENDING_CALLS: Final = 256
# Descriptors that stay free for the store, the log and the metrics, as a share of all and at least.
_SPARE_SHARE: Final = 0.1
_SPARE_LEAST: Final = 64
_READ_BYTES: Final = 1 << 18
_KEEPALIVE_SECONDS: Final = 60.0
_KEEPALIVE_TIMEOUT: Final = 20.0

_log = structlog.get_logger()


def server_options(config: ServerConfig, *, shared: bool) -> list[tuple[str, int]]:
    """Returns the options of a gRPC server.

    Args:
        config: the settings.
        shared: whether other processes listen on the same port.
    """
    return [
        ("grpc.max_receive_message_length", MESSAGE_BYTES),
        # gRPC keeps a window of each stream whose message was not requested: without the probe, it stays 64 KiB.
        # A requested message gets a window of its size.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.max_concurrent_streams", config.max_connection_calls),
        # Calls that the event loop has not taken yet. Beyond, gRPC refuses more and more of them, then all.
        ("grpc.server.max_pending_requests", _PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", 2 * _PENDING_CALLS),
        ("grpc.so_reuseport", int(shared)),
        ("grpc.max_allowed_incoming_connections", _fitting(config.max_connections)),
        # Covers TLS and the first frame of HTTP/2.
        ("grpc.server_handshake_timeout_ms", _milliseconds(config.handshake_seconds)),
        ("grpc.max_connection_idle_ms", _milliseconds(config.connection_idle)),
        # No bound of the running calls: theirs are in the settings.
        *([("grpc.max_connection_age_ms", _milliseconds(age))] if (age := config.connection_age) else []),
        # By default a connection reads up to 4 MiB at once: a flood of small frames then took 50 MiB more.
        ("grpc.experimental.tcp_max_read_chunk_size", _READ_BYTES),
        ("grpc.experimental.tcp_max_read_buffer_size", _READ_BYTES),
        # Finds peers that vanished, and peers that do not read.
        ("grpc.keepalive_time_ms", _milliseconds(_KEEPALIVE_SECONDS)),
        ("grpc.keepalive_timeout_ms", _milliseconds(_KEEPALIVE_TIMEOUT)),
    ]


def _milliseconds(seconds: float) -> int:
    return min(max(1, round(seconds * 1000)), 2**31 - 1)


def _fitting(connections: int) -> int:
    """Returns the limit, or the number of connections for which the process has descriptors."""
    descriptors = os.sysconf("SC_OPEN_MAX") if hasattr(os, "sysconf") else -1
    if descriptors < 0:
        return connections
    fitting = max(1, descriptors - max(_SPARE_LEAST, round(_SPARE_SHARE * descriptors)))
    if fitting < connections:
        _log.info("fewer connections", connections=fitting, max_connections=connections, descriptors=descriptors)
    return min(connections, fitting)
