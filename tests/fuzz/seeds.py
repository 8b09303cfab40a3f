"""Inputs that no file can hold, since they name a θ that is made anew."""

from collections.abc import Sequence
from typing import Final

from tests.support.point_navigation import collect
from thetaprime import wire

from .parsers import PARSERS, call
from .service import SESSION, Service

_LENGTH_BYTES: Final = 2


def upload_that_counts(service: Service) -> bytes:
    """A whole upload of trajectories of the service's own θ, as an input of `parsers.call`."""
    trajectories = collect(service.policy, trajectories=2, steps=4)
    messages = wire.iter_upload(SESSION, "u", 0, wire.pack(trajectories), 2, 8)
    return as_call(service, "UploadTrajectories", [message.SerializeToString() for message in messages])


def as_call(service: Service, method: str, messages: Sequence[bytes]) -> bytes:
    """A call, as an input of `parsers.parse`."""
    sent = b"".join(len(message).to_bytes(_LENGTH_BYTES) + message for message in messages)
    return bytes([PARSERS.index(call), service.methods.index(method)]) + sent
