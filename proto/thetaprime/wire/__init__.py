"""Trajectories as numpy arrays, and their conversion to and from protobuf.

No other hand-written code converts arrays. The client packs an upload with `pack`, the server reads it with `unpack`,
and both check each trajectory with `validate`. `check_onnx` checks the ONNX file of a policy before a runtime loads it.

Shapes: H steps, O observation (its shape, flattened where one number is meant), A action dimensions.
"""

from thetaprime.wire.contract import (
    ActionKind,
    EnvironmentContract,
    RewardContract,
    contract_from_message,
    contract_to_message,
)
from thetaprime.wire.errors import DigestMismatchError, WireError
from thetaprime.wire.onnx_file import MAX_ONNX_BYTES, OnnxFile, check_onnx
from thetaprime.wire.payload import (
    CHUNK_BYTES,
    array_from_message,
    array_to_message,
    batch_digest,
    iter_upload,
    pack,
    sha256_hex,
    trajectory_from_message,
    trajectory_to_message,
    unpack,
)
from thetaprime.wire.trajectory import Trajectory, validate

__all__ = [
    "CHUNK_BYTES",
    "MAX_ONNX_BYTES",
    "ActionKind",
    "DigestMismatchError",
    "EnvironmentContract",
    "OnnxFile",
    "RewardContract",
    "Trajectory",
    "WireError",
    "array_from_message",
    "array_to_message",
    "batch_digest",
    "check_onnx",
    "contract_from_message",
    "contract_to_message",
    "iter_upload",
    "pack",
    "sha256_hex",
    "trajectory_from_message",
    "trajectory_to_message",
    "unpack",
    "validate",
]
