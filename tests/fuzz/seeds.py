"""Inputs that name the service's θ, which each process makes anew, so that no file can hold them."""

from collections.abc import Sequence
from typing import Final

from tests.support.point_navigation import collect
from thetaprime import wire

from .parsers import PARSERS, call
from .service import SESSION, Service

_LENGTH_BYTES: Final = 2


def whole_upload(service: Service) -> bytes:
    """Returns a complete upload of trajectories of the service's θ, as an input of `parsers.parse`."""
    trajectories = collect(service.policy, trajectories=2, steps=4)
    messages = wire.iter_upload(SESSION, "u", 0, wire.pack(trajectories), 2, 8)
    return as_call(service, "UploadTrajectories", [message.SerializeToString() for message in messages])


def as_call(service: Service, method: str, messages: Sequence[bytes]) -> bytes:
    """Returns a call as an input of `parsers.parse`."""
    sent = b"".join(len(message).to_bytes(_LENGTH_BYTES) + message for message in messages)
    return bytes([PARSERS.index(call), service.methods.index(method)]) + sent
