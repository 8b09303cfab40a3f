"""Trajectories <-> the payload of an upload, and the messages that carry it."""

import io
from collections.abc import Iterator, Sequence
from typing import Final

from google.protobuf import proto
from google.protobuf.message import DecodeError

from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import trajectory_pb2 as pb
from thetaprime.wire.arrays import array_from_message, array_to_message
from thetaprime.wire.digests import sha256_hex
from thetaprime.wire.errors import WireError
from thetaprime.wire.trajectory import Trajectory

CHUNK_BYTES: Final = 1 << 20
"""Most payload bytes that one chunk may carry."""


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
        WireError: an array that is missing or does not hold together.
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
    """The payload of an upload: each trajectory's message behind its length."""
    buffer = io.BytesIO()
    for trajectory in trajectories:
        proto.serialize_length_prefixed(trajectory_to_message(trajectory), buffer)
    return buffer.getvalue()


def unpack(payload: bytes) -> Iterator[Trajectory]:
    """Reads a payload, one trajectory at a time, so that a reader may stop at its limits.

    Raises:
        WireError: the payload ends within a trajectory, or is not what `pack` writes.
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
) -> Iterator[service_pb.UploadTrajectoriesRequest]:
    """The messages of one upload: header, chunks, footer; its digest is taken here unless it is known."""
    header = service_pb.UploadHeader(
        session_id=session_id, upload_id=upload_id, round=round_index, payload_bytes=len(payload)
    )
    yield service_pb.UploadTrajectoriesRequest(header=header)
    for start in range(0, len(payload), CHUNK_BYTES):
        chunk = service_pb.UploadChunk(data=payload[start : start + CHUNK_BYTES])
        yield service_pb.UploadTrajectoriesRequest(chunk=chunk)
    footer = service_pb.UploadFooter(trajectories=trajectories, steps=steps, sha256=sha256 or sha256_hex(payload))
    yield service_pb.UploadTrajectoriesRequest(footer=footer)
