"""Builds requests from the arguments of the client's methods."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
from google.protobuf.duration_pb2 import Duration

from thetaprime import wire
from thetaprime.client._errors import InvalidInputError, PreconditionError
from thetaprime.client._verdict import CAUTIONS
from thetaprime.v1 import adaptation_service_pb2 as pb

# 128 bits of a SHA-256 name an upload.
_UPLOAD_ID_DIGITS: Final = 32
# About half of a server's default limits of an upload: trajectories, steps, numbers of 4 bytes.
_PART_LIMITS: Final = np.array([500, 100_000, 2**21])


def name_and_version(name: str, version: int) -> tuple[str, int]:
    """Splits ``name@version``; a bare name takes `version`.

    Raises:
        InvalidInputError: the version is malformed, or the two versions differ.
    """
    bare, separator, digits = name.partition("@")
    if not separator:
        return name, version
    if not digits.isdigit() or version not in (0, int(digits)):
        raise InvalidInputError.at("meta_policy", f"{name!r} with version={version}; expected 'name' or 'name@3'")
    return bare, int(digits)


def duration(seconds: float) -> Duration:
    """Returns a time to live as a message.

    Raises:
        InvalidInputError: `seconds` is not a number, or out of range.
    """
    try:
        message = Duration()
        message.FromNanoseconds(round(seconds * 1e9))
    except (ValueError, OverflowError) as error:
        raise InvalidInputError.at("ttl", f"{seconds!r}; expected seconds") from error
    return message


def prepare_upload(
    session_id: str,
    round_index: int,
    contract: wire.EnvironmentContract,
    trajectories: Sequence[wire.Trajectory],
    upload_id: str | None,
    *,
    count_again: bool = False,
    only_measures: bool = False,
) -> Callable[[], Iterator[pb.UploadTrajectoriesRequest]]:
    """Validates and packs trajectories.

    Args:
        session_id: the session.
        round_index: the round that the trajectories belong to.
        contract: the contract of the environment.
        trajectories: whole episodes.
        upload_id: names the upload; None derives the name from the content.
        count_again: whether content counts that the round already has.
        only_measures: whether no step is planned on the trajectories.

    Returns:
        A function that returns the upload's messages from the start, for each attempt.

    Raises:
        InvalidInputError: there are no trajectories, or one is invalid; `violations` names the step and field.
    """
    if not trajectories:
        raise InvalidInputError.at("trajectories", "empty; expected at least one")
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
        count_again,
        only_measures,
    )


def session_options(
    *,
    step_size_scale: float | None,
    caution: str | None,
    reward_scale: float | None,
    reward_offset: float | None,
    max_kl: float | None,
) -> pb.SessionOptions:
    """Returns the options of a session; None leaves an option unset.

    Raises:
        InvalidInputError: `caution` is no value of it. The server checks the numbers.
    """
    if caution is not None and caution not in CAUTIONS:
        raise InvalidInputError.at("caution", f"{caution!r}; expected {', '.join(map(repr, CAUTIONS))} or None")
    return pb.SessionOptions(
        step_size_scale=step_size_scale,
        caution=None if caution is None else CAUTIONS[caution],
        reward_scale=reward_scale,
        reward_offset=reward_offset,
        max_kl=max_kl,
    )


def check_options(sent: pb.SessionOptions, kept: pb.SessionOptions, address: str) -> None:
    """Checks that the server knows the options of a session.

    Raises:
        PreconditionError: an option is missing in the session: the server is older than the option.
    """
    # An old server takes every step, as "off" asks for.
    asked = {field.name for field, value in sent.ListFields() if value != pb.CAUTION_OFF or field.name != "caution"}
    if unknown := sorted(asked - {field.name for field, _ in kept.ListFields()}):
        raise PreconditionError(
            f"{', '.join(unknown)}: the server at {address} is older than this option of a session, and would ignore "
            "it; update the server, or leave the option out"
        )


def split_upload(trajectories: Sequence[wire.Trajectory]) -> Iterator[Sequence[wire.Trajectory]]:
    """Splits trajectories into parts that each fit one upload. No trajectory is divided."""
    part: list[wire.Trajectory] = []
    total = np.zeros_like(_PART_LIMITS)
    for trajectory in trajectories:
        # Not validated yet: the fields may hold anything.
        numbers = [np.size(each) for each in (trajectory.rewards, trajectory.observations, trajectory.actions)]
        size = np.array([1, numbers[0], sum(numbers)])
        if part and (total + size > _PART_LIMITS).any():
            yield part
            part, total = [], np.zeros_like(_PART_LIMITS)
        part.append(trajectory)
        total += size
    if part:
        yield part
