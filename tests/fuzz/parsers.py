"""Every parser of a client's bytes, as a function of bytes that returns or raises a declared error."""

import asyncio
import contextlib
import functools
import io
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from typing import Final

import grpc
import numpy as np
from google.protobuf import proto
from google.protobuf.message import DecodeError

from tests.support.server.without_wire import Metadata
from thetaprime import wire
from thetaprime.models import BoxAction, EnvironmentContract, Policy, PolicySpec, behavior_evidence
from thetaprime.server import ServerConfig
from thetaprime.server.catalog.catalog import wire_contract
from thetaprime.server.errors import ServiceError
from thetaprime.server.rpc.upload_stream import PayloadAssembly, receive_header, receive_payload
from thetaprime.server.sessions import sessions
from thetaprime.server.sessions.rows import check_id
from thetaprime.server.sessions.uploads import trajectory_batch
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import trajectory_pb2

from .service import AUTHORIZED, Service

_ENVIRONMENT: Final = EnvironmentContract(
    environment_id="fuzz",
    observation_shape=(2,),
    action=BoxAction(low=(-0.1, -0.1), high=(0.1, 0.1)),
    horizon=16,
)
_CONTRACT: Final = wire_contract(_ENVIRONMENT)
_POLICY: Final = Policy(_ENVIRONMENT, PolicySpec(hidden_sizes=(4,)))
_PARAMETERS: Final = _POLICY.init(0)
_CONFIG: Final = ServerConfig(max_upload_bytes=1 << 20, max_inflight_bytes=1 << 20)
_LOOP: Final = asyncio.new_event_loop()


def payload(data: bytes) -> None:
    """Parses the payload of an upload, and checks its trajectories against contract and policy."""
    trajectories = []
    for index, trajectory in enumerate(wire.unpack(data)):
        wire.validate(trajectory, _CONTRACT, f"trajectories[{index}]")
        trajectories.append(trajectory)
    if trajectories:
        behavior_evidence(_POLICY, _PARAMETERS, trajectory_batch(trajectories))


def upload(data: bytes) -> None:
    """Parses the messages of an upload, each after its length."""

    async def receive() -> None:
        async with contextlib.aclosing(_messages(data)) as messages:
            header = await receive_header(messages, 1.0)
            check_id(header.upload_id, "header.upload_id")
            received, _ = await receive_payload(messages, PayloadAssembly(header.payload_bytes, _CONFIG), 1.0, 1.0)
        payload(received)

    _LOOP.run_until_complete(receive())


async def _messages(data: bytes) -> AsyncGenerator[service_pb.UploadTrajectoriesRequest, None]:
    buffer = io.BytesIO(data)
    while buffer.tell() < len(data):
        try:
            message = proto.parse_length_prefixed(service_pb.UploadTrajectoriesRequest, buffer)
        except (DecodeError, EOFError, ValueError, IndexError, OverflowError):
            return  # gRPC ends a stream at an invalid message
        if message is None:
            return
        yield message


def array(data: bytes) -> None:
    """Parses one array."""
    wire.array_from_message(trajectory_pb2.Array.FromString(data), "array")


def creation(data: bytes) -> None:
    """Parses the arguments of a session."""
    request = service_pb.CreateSessionRequest.FromString(data)
    check_id(request.request_id, "request_id")
    arguments = sessions.CreateArguments(
        meta_policy=request.meta_policy,
        meta_policy_version=request.meta_policy_version,
        step_size_scale=request.options.step_size_scale,
        ttl=request.ttl.ToMicroseconds(),
    )
    arguments.check(_CONFIG)


def page_token(data: bytes) -> None:
    """Parses the token of a page."""
    sessions.read_token(data.decode(errors="replace"))


class _RefusedError(Exception):
    """A call was refused with a declared status."""


@functools.cache
def service() -> Service:
    """Returns the service that receives all calls."""
    return Service()


def call(data: bytes) -> None:
    """Calls the method that the first byte picks, with messages that each follow their length in two bytes."""
    methods = service().methods
    _taken(methods[data[0] % len(methods) if data else 0], _split(data[1:]), AUTHORIZED)


def metadata(data: bytes) -> None:
    """Makes a call with metadata: lines of a key, a colon and a value."""
    lines = (line.partition(b":") for line in data.split(b"\n"))
    # gRPC lower-cases keys, and decodes values as UTF-8 or else as Latin-1.
    sent = [(key.decode("latin-1").lower(), _text(value)) for key, _, value in lines]
    _taken("ListMetaPolicies", [b""], sent)


def _taken(method: str, messages: Iterable[bytes], sent: Metadata) -> None:
    if service().call(method, messages, sent) is not grpc.StatusCode.OK:
        raise _RefusedError


def _split(data: bytes) -> Iterator[bytes]:
    while data:
        end = 2 + int.from_bytes(data[:2])
        yield data[2:end]
        data = data[end:]


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


PARSERS: Final[tuple[Callable[[bytes], None], ...]] = (payload, upload, array, creation, page_token, call, metadata)


def parse(data: bytes) -> bool:
    """Parses all but the first byte with the parser that the first byte picks; returns whether they were accepted.

    Raises:
        Exception: an undeclared error of a parser.
    """
    if not data:
        return False
    try:
        with np.errstate(all="ignore"):
            PARSERS[data[0] % len(PARSERS)](data[1:])
    except (wire.WireError, ServiceError, DecodeError, _RefusedError):
        return False
    return True
