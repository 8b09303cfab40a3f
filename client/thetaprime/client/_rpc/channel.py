"""The address and the options of a channel to a server."""

import ipaddress
import json
from typing import Any, Final

import grpc

from thetaprime.client._errors import InvalidInputError

_MESSAGE_BYTES: Final = 64 << 20
_ADAPTATION: Final = "thetaprime.v1.AdaptationService"
# Every call of the contract is safe to repeat.
ATTEMPTS: Final = 5
"""Maximum number of times that a call is sent to a server that is unavailable or drops the call."""
BACKOFF: Final = (0.1, 2.0, 3)
"""Pause after the first attempt in seconds, longest pause in seconds, and growth of the pause by attempt."""
# A server with too many calls that wait for it drops some: CANCELLED.
RETRYABLE: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
"""Status codes of these failures."""

# gRPC retries the calls of one message, but no stream: where the server's status arrives while messages are sent, the
# next attempt can lack some of them (grpcio 1.85). `Transport` retries streams, each from its start.
_SERVICE_CONFIG: Final = {
    "methodConfig": [
        {
            "name": [{"service": _ADAPTATION}, {"service": "thetaprime.v1.MetaPolicyService"}],
            "retryPolicy": {
                "maxAttempts": ATTEMPTS,
                "initialBackoff": f"{BACKOFF[0]}s",
                "maxBackoff": f"{BACKOFF[1]}s",
                "backoffMultiplier": BACKOFF[2],
                "retryableStatusCodes": [code.name for code in RETRYABLE],
            },
        },
        {"name": [{"service": _ADAPTATION, "method": "UploadTrajectories"}]},
    ]
}
CHANNEL_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # gRPC retries a call only while its buffer holds the message: by default 256 KiB.
    ("grpc.per_rpc_retry_buffer_size", _MESSAGE_BYTES),
    # The retries above must outlast a server's restart.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
"""Options of a channel to a ThetaPrime server, for programs that open the channel themselves."""

_LAST_PORT: Final = 65535
# Schemes of gRPC's targets. The first have hosts and optional ports; the others are not checked.
_HOST_SCHEMES: Final = ("dns", "ipv4", "ipv6")
_OTHER_SCHEMES: Final = ("unix", "unix-abstract", "vsock", "xds", "google-c2p")


def check_address(address: str, field: str = "address") -> None:
    """Refuses an address that gRPC would read as another host or port.

    gRPC wraps a port round at 65,536, connects to port 443 where the address has no port, and looks up
    ``http://host`` as a host name.

    Args:
        address: ``host:port``, or a target of gRPC with its scheme (``dns:``, ``ipv4:``, ``ipv6:``, ``unix:``, ...).
        field: names the address in the error.

    Raises:
        InvalidInputError: the address is a URL, has no port, or a port outside 0 to 65535.
    """
    scheme, _, rest = address.partition(":")
    if scheme.lower() in _OTHER_SCHEMES:
        return
    if scheme.lower() in _HOST_SCHEMES:
        for each in rest.rpartition("/")[2].split(","):
            _check_port(_port(each), address, field)
        return
    if "://" in address:
        problem, host = "is a URL", address.partition("://")[2].partition("/")[0]
    elif _is_ipv6(address):
        problem, host = "has no brackets", f"[{address}]"
    elif not _port(address):
        problem, host = "has no port", address
    else:
        _check_port(_port(address), address, field)
        return
    example = host if _port(host) else f"{host.removesuffix(':') or 'localhost'}:50051"
    raise InvalidInputError.at(field, f"{address!r} {problem}; expected host:port, such as {example!r}")


def _port(address: str) -> str:
    # What follows the last colon outside of an IPv6 address's brackets.
    _, colon, port = address.rpartition("]")[2].rpartition(":")
    return port if colon and not _is_ipv6(address) else ""


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


def _check_port(port: str, address: str, field: str) -> None:
    if port and not (port.isascii() and port.isdecimal() and int(port) <= _LAST_PORT):
        raise InvalidInputError.at(field, f"{address!r} has port {port!r}; expected a number from 0 to {_LAST_PORT}")
