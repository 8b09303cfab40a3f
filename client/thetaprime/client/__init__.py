"""The SDK: adapts a meta-policy to a task, and runs the adapted policy locally.

Example:
    >>> import thetaprime.client as tp
    >>> with tp.Client("localhost:50051") as client:
    ...     adapted = client.adapt("half-cheetah-direction", env, rounds=3)
    ...     action = adapted.act(observation)
    ...     adapted.save("policy.onnx")
"""

from thetaprime.client._client import DEFAULT_ADDRESS, DEFAULT_TIMEOUT, Client
from thetaprime.client._collect import collect
from thetaprime.client._credentials import tls_credentials
from thetaprime.client._errors import (
    AccessError,
    DataLossError,
    DeadlineError,
    InvalidInputError,
    LimitError,
    NotFoundError,
    PolicyVerificationError,
    PreconditionError,
    ServerError,
    StaleRoundError,
    ThetaPrimeError,
    UnreachableError,
    Violation,
)
from thetaprime.client._policy import AdaptedPolicy
from thetaprime.client._session import Session
from thetaprime.client._spaces import check_environment
from thetaprime.client._transport import CHANNEL_OPTIONS
from thetaprime.client._types import (
    AdaptationReport,
    MetaPolicyInfo,
    Progress,
    SessionInfo,
    UploadedBatch,
    UploadReceipt,
)
from thetaprime.wire import ActionKind, EnvironmentContract, Trajectory

__all__ = [
    "CHANNEL_OPTIONS",
    "DEFAULT_ADDRESS",
    "DEFAULT_TIMEOUT",
    "AccessError",
    "ActionKind",
    "AdaptationReport",
    "AdaptedPolicy",
    "Client",
    "DataLossError",
    "DeadlineError",
    "EnvironmentContract",
    "InvalidInputError",
    "LimitError",
    "MetaPolicyInfo",
    "NotFoundError",
    "PolicyVerificationError",
    "PreconditionError",
    "Progress",
    "ServerError",
    "Session",
    "SessionInfo",
    "StaleRoundError",
    "ThetaPrimeError",
    "Trajectory",
    "UnreachableError",
    "UploadReceipt",
    "UploadedBatch",
    "Violation",
    "check_environment",
    "collect",
    "tls_credentials",
]
