"""An upload, made ready to be sent."""

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from thetaprime import wire
from thetaprime.client._errors import InvalidInputError
from thetaprime.v1 import adaptation_service_pb2 as pb

# Enough of a SHA-256 to name an upload: 128 bits.
_UPLOAD_ID_DIGITS = 32
# About half of what a server takes in one upload where nothing else is set: trajectories, steps, numbers of 4 bytes.
_PART = np.array([500, 100_000, 2**21])


def prepare_upload(
    session_id: str,
    round_index: int,
    contract: wire.EnvironmentContract,
    trajectories: Sequence[wire.Trajectory],
    upload_id: str | None,
) -> Callable[[], Iterator[pb.UploadTrajectoriesRequest]]:
    """Checks and packs trajectories.

    Args:
        session_id: where they go.
        round_index: the round that they are for.
        contract: what they must fit.
        trajectories: whole episodes.
        upload_id: names the upload; None makes a name of its content.

    Returns:
        What gives all messages of the upload anew each time that it is called.

    Raises:
        InvalidInputError: there are none, or one does not fit; `violations` names the step and field.
    """
    if not trajectories:
        raise InvalidInputError.at("trajectories", "none; an upload carries at least one")
    for index, trajectory in enumerate(trajectories):
        try:
            wire.validate(trajectory, contract, f"trajectories[{index}]")
        except wire.WireError as error:
            raise InvalidInputError.at(error.field, error.problem) from error
    payload = wire.pack(trajectories)
    digest = wire.sha256_hex(payload)
    return functools.partial(
        wire.iter_upload,
        session_id,
        upload_id or digest[:_UPLOAD_ID_DIGITS],
        round_index,
        payload,
        len(trajectories),
        sum(len(trajectory) for trajectory in trajectories),
        digest,
    )


def in_parts(trajectories: Sequence[wire.Trajectory]) -> Iterator[Sequence[wire.Trajectory]]:
    """What is too much for one upload, for several; no trajectory is divided."""
    part: list[wire.Trajectory] = []
    held = np.zeros_like(_PART)
    for trajectory in trajectories:
        # Not checked yet: it may hold anything.
        numbers = [np.size(each) for each in (trajectory.rewards, trajectory.observations, trajectory.actions)]
        size = np.array([1, numbers[0], sum(numbers)])
        if part and (held + size > _PART).any():
            yield part
            part, held = [], np.zeros_like(_PART)
        part.append(trajectory)
        held += size
    if part:
        yield part
