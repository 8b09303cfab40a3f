"""Trajectories <-> the payload of an upload, the messages that carry it, and its digest."""

import hashlib
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from google.protobuf import proto
from google.protobuf.message import DecodeError

from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import trajectory_pb2 as pb
from thetaprime.wire.errors import WireError
from thetaprime.wire.trajectory import Trajectory

CHUNK_BYTES: Final = 1 << 20
"""The most payload bytes in one chunk."""

_DTYPES: Final[dict[pb.DataType, np.dtype[Any]]] = {
    pb.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    pb.DATA_TYPE_FLOAT64: np.dtype("<f8"),
    pb.DATA_TYPE_INT32: np.dtype("<i4"),
    pb.DATA_TYPE_INT64: np.dtype("<i8"),
}
_DATA_TYPES: Final = {dtype: data_type for data_type, dtype in _DTYPES.items()}
# A bound makes a hostile shape cheap to refuse.
_MAX_AXES: Final = 8


def array_to_message(array: npt.NDArray[Any]) -> pb.Array:
    """Copies an array into a message.

    Raises:
        WireError: the dtype is not float32, float64, int32 or int64.
    """
    data_type = _DATA_TYPES.get(array.dtype.newbyteorder("<"))
    if data_type is None:
        raise WireError("data_type", f"dtype {array.dtype} has no wire form; expected {_expected()}")
    data = np.ascontiguousarray(array, dtype=_DTYPES[data_type]).tobytes()
    return pb.Array(data_type=data_type, shape=array.shape, data=data)


def array_from_message(message: pb.Array, field: str) -> npt.NDArray[Any]:
    """Views a message's bytes as an array (read-only, no copy).

    Args:
        message: the message.
        field: path of the message, for the error.

    Raises:
        WireError: an unknown data type, a negative length, or a length of `data` that does not fit the shape.
    """
    dtype = _DTYPES.get(message.data_type)
    if dtype is None:
        raise WireError(f"{field}.data_type", f"{message.data_type} is unknown; expected {_expected()}")
    # Each access copies the field.
    shape, data = tuple(message.shape), message.data
    if len(shape) > _MAX_AXES:
        raise WireError(f"{field}.shape", f"{len(shape)} axes; at most {_MAX_AXES} are allowed")
    if shape and min(shape) < 0:
        raise WireError(f"{field}.shape", f"{list(shape)} has a negative length")
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise WireError(f"{field}.data", f"{len(data)} bytes; shape {list(shape)} of {dtype.name} takes {expected}")
    try:
        return np.frombuffer(data, dtype).reshape(shape)
    except ValueError as error:  # a zero, beside lengths that numpy cannot represent
        raise WireError(f"{field}.shape", f"{list(shape)} is not a shape: {error}") from error


def sha256_hex(data: bytes | bytearray | memoryview) -> str:
    """The SHA-256 of bytes, as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def batch_digest(upload_digests: Iterable[str]) -> str:
    """The digest of a round's batch, by which `Adapt` names the uploads to use.

    The upload digests are sorted first, so the order of arrival does not matter.

    Args:
        upload_digests: the hex SHA-256 of each upload's payload; twice for a payload that was sent under two upload
            ids.

    Returns:
        64 hexadecimal digits, or the empty string for no uploads.
    """
    ordered = sorted(upload_digests)
    return sha256_hex("".join(ordered).encode("ascii")) if ordered else ""


def trajectory_to_message(trajectory: Trajectory) -> pb.Trajectory:
    """Copies a trajectory into a message."""
    return pb.Trajectory(
        policy_id=trajectory.policy_id,
        observations=array_to_message(trajectory.observations),
        actions=array_to_message(trajectory.actions),
        rewards=array_to_message(trajectory.rewards),
        terminated=trajectory.terminated,
        truncated=trajectory.truncated,
        final_observation=array_to_message(trajectory.final_observation),
    )


def trajectory_from_message(message: pb.Trajectory, field: str = "trajectory") -> Trajectory:
    """Views a message as a trajectory (its arrays are read-only and share the message's bytes).

    Raises:
        WireError: an array is missing or malformed.
    """
    return Trajectory(
        observations=array_from_message(message.observations, f"{field}.observations"),
        actions=array_from_message(message.actions, f"{field}.actions"),
        rewards=array_from_message(message.rewards, f"{field}.rewards"),
        terminated=message.terminated,
        truncated=message.truncated,
        final_observation=array_from_message(message.final_observation, f"{field}.final_observation"),
        policy_id=message.policy_id,
    )


def pack(trajectories: Sequence[Trajectory]) -> bytes:
    """The payload of an upload: each trajectory's message, prefixed with its length."""
    buffer = io.BytesIO()
    for trajectory in trajectories:
        proto.serialize_length_prefixed(trajectory_to_message(trajectory), buffer)
    return buffer.getvalue()


def unpack(payload: bytes) -> Iterator[Trajectory]:
    """Reads a payload, one trajectory at a time, so that a reader can stop at its limits.

    Raises:
        WireError: the payload ends within a trajectory, or `pack` did not write it.
    """
    buffer = io.BytesIO(payload)
    index = 0
    while buffer.tell() < len(payload):
        field = f"trajectories[{index}]"
        try:
            message = proto.parse_length_prefixed(pb.Trajectory, buffer)
        except (DecodeError, EOFError, ValueError, IndexError, OverflowError) as error:
            raise WireError(field, f"not a Trajectory message: {error}") from error
        if message is None:
            raise WireError(field, "the payload ends within its length prefix")
        yield trajectory_from_message(message, field)
        index += 1


def iter_upload(
    session_id: str,
    upload_id: str,
    round_index: int,
    payload: bytes,
    trajectories: int,
    steps: int,
    sha256: str | None = None,
    count_again: bool = False,
    only_measures: bool = False,
) -> Iterator[service_pb.UploadTrajectoriesRequest]:
    """The messages of one upload: header, chunks, footer. Without `sha256` the payload's digest is computed here."""
    header = service_pb.UploadHeader(
        session_id=session_id,
        upload_id=upload_id,
        round=round_index,
        payload_bytes=len(payload),
        count_again=count_again,
        only_measures=only_measures,
    )
    yield service_pb.UploadTrajectoriesRequest(header=header)
    for start in range(0, len(payload), CHUNK_BYTES):
        chunk = service_pb.UploadChunk(data=payload[start : start + CHUNK_BYTES])
        yield service_pb.UploadTrajectoriesRequest(chunk=chunk)
    footer = service_pb.UploadFooter(trajectories=trajectories, steps=steps, sha256=sha256 or sha256_hex(payload))
    yield service_pb.UploadTrajectoriesRequest(footer=footer)


def _expected() -> str:
    return "one of " + ", ".join(dtype.name for dtype in _DATA_TYPES)
