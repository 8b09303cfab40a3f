"""Trajectories as numpy arrays, and their way to and from protobuf.

This is the only hand-written code that touches the contract's messages of arrays. Both ends of the wire
use it: what the client packs with `pack` the server reads with `unpack`, and both hold a trajectory
against its environment with `validate`.

Shapes: H steps, O observation (its shape, flattened where one number is meant), A action dimensions.
"""

from thetaprime.wire.arrays import array_from_message, array_to_message
from thetaprime.wire.contract import (
    ActionKind,
    EnvironmentContract,
    contract_from_message,
    contract_to_message,
)
from thetaprime.wire.digests import batch_digest, sha256_hex
from thetaprime.wire.errors import DigestMismatchError, WireError
from thetaprime.wire.payload import (
    CHUNK_BYTES,
    iter_upload,
    pack,
    trajectory_from_message,
    trajectory_to_message,
    unpack,
)
from thetaprime.wire.trajectory import Trajectory, validate

__all__ = [
    "CHUNK_BYTES",
    "ActionKind",
    "DigestMismatchError",
    "EnvironmentContract",
    "Trajectory",
    "WireError",
    "array_from_message",
    "array_to_message",
    "batch_digest",
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
