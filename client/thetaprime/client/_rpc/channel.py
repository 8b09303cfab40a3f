"""What every channel to a server is opened with, and how calls to it are repeated."""

import json
import random
from typing import Any, Final

from thetaprime.client._errors import LimitError

_MESSAGE_BYTES: Final = 64 << 20
# Every call of the contract is safe to repeat, so an interrupted one is sent again on its own.
_SERVICE_CONFIG: Final = {
    "methodConfig": [
        {
            "name": [{"service": "thetaprime.v1.AdaptationService"}, {"service": "thetaprime.v1.MetaPolicyService"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
CHANNEL_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # An upload is a stream: it can be repeated only while all of it is still held here.
    ("grpc.per_rpc_retry_buffer_size", _MESSAGE_BYTES),
    # A server that restarts is found again within the retries above.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
"""Options of a channel to a ThetaPrime server, for those who bring their own channel."""

_BACKOFF_SECONDS: Final = 0.1
_BACKOFF_GROWTH: Final = 2.0
_JITTER: Final = 0.25


class Backoff:
    """How long to wait before a refused request is sent again; longer each time."""

    def __init__(self) -> None:
        self._pause = _BACKOFF_SECONDS

    def after(self, error: LimitError) -> float:
        """Seconds to wait after a refusal; infinity where waiting does not help."""
        if error.retry_after is None:
            return float("inf")
        pause, self._pause = self._pause, self._pause * _BACKOFF_GROWTH
        # Never before the server's time, and not all the clients that it told the same at the same moment.
        return max(error.retry_after, pause) * (1.0 + _JITTER * random.random())  # noqa: S311
