"""The client SDK: adapts a meta-policy to a task, and runs the adapted policy locally.

Examples:
    >>> import thetaprime.client as tp
    >>> with tp.Client("localhost:50051") as client:
    ...     adapted = client.adapt("half-cheetah-direction", env, rounds=3)
    ...     action = adapted.act(observation)
    ...     adapted.save("policy.onnx")

`thetaprime.client.aio` is the client for asyncio.
"""

from thetaprime.client._collect.collect import collect
from thetaprime.client._collect.minari import from_minari, to_minari
from thetaprime.client._collect.spaces import check_environment
from thetaprime.client._configuration import DEFAULT_ADDRESS, DEFAULT_TIMEOUT
from thetaprime.client._errors import (
    AccessError,
    CollectionError,
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
from thetaprime.client._explanation import ExplainedTrajectory, RoundExplanation
from thetaprime.client._history import RoundResult
from thetaprime.client._policy.adaptation import Adaptation
from thetaprime.client._policy.adapted_policy import AdaptedPolicy
from thetaprime.client._policy.hand_over import PolicySwap
from thetaprime.client._policy.memory_contract import MemoryContract, StateTensor
from thetaprime.client._policy.policy_file import PolicyFile, RobotDescription, TensorInfo
from thetaprime.client._policy.policy_state import PolicyState
from thetaprime.client._policy.reset_watch import MemoryWarning
from thetaprime.client._policy.runner import PolicyRunner
from thetaprime.client._rpc.channel import CHANNEL_OPTIONS
from thetaprime.client._rpc.credentials import tls_credentials
from thetaprime.client._sync.client import Client
from thetaprime.client._sync.session import Session
from thetaprime.client._types import (
    AdaptationReport,
    BestPolicy,
    MetaPolicyInfo,
    Progress,
    SessionInfo,
    UploadedBatch,
    UploadReceipt,
    UploadShare,
)
from thetaprime.client._verdict import Decision, Estimate, Reason, ReasonCode, Verdict, WeightyStep
from thetaprime.wire import ActionKind, EnvironmentContract, RewardContract, Trajectory

__all__ = [
    "CHANNEL_OPTIONS",
    "DEFAULT_ADDRESS",
    "DEFAULT_TIMEOUT",
    "AccessError",
    "ActionKind",
    "Adaptation",
    "AdaptationReport",
    "AdaptedPolicy",
    "BestPolicy",
    "Client",
    "CollectionError",
    "DataLossError",
    "DeadlineError",
    "Decision",
    "EnvironmentContract",
    "Estimate",
    "ExplainedTrajectory",
    "InvalidInputError",
    "LimitError",
    "MemoryContract",
    "MemoryWarning",
    "MetaPolicyInfo",
    "NotFoundError",
    "PolicyFile",
    "PolicyRunner",
    "PolicyState",
    "PolicySwap",
    "PolicyVerificationError",
    "PreconditionError",
    "Progress",
    "Reason",
    "ReasonCode",
    "RewardContract",
    "RobotDescription",
    "RoundExplanation",
    "RoundResult",
    "ServerError",
    "Session",
    "SessionInfo",
    "StaleRoundError",
    "StateTensor",
    "TensorInfo",
    "ThetaPrimeError",
    "Trajectory",
    "UnreachableError",
    "UploadReceipt",
    "UploadShare",
    "UploadedBatch",
    "Verdict",
    "Violation",
    "WeightyStep",
    "check_environment",
    "collect",
    "from_minari",
    "tls_credentials",
    "to_minari",
]
