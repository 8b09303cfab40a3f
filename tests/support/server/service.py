"""A plain gRPC client of one server, and the refusals that it receives."""

import contextlib
import dataclasses
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tests.support.point_navigation import NAME
from thetaprime import wire
from thetaprime.server import ServerConfig
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import meta_policy_service_pb2_grpc as meta_grpc
from thetaprime.v1.adaptation_service_pb2_grpc import AdaptationServiceStub

DEADLINE = 60.0


@dataclasses.dataclass
class Refusal:
    """The status and the details of a refused call; empty until the call is refused."""

    code: grpc.StatusCode = grpc.StatusCode.OK
    message: str = ""
    details: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def field(self) -> str:
        return str(self.details["BadRequest"].field_violations[0].field)

    @property
    def reason(self) -> str:
        assert self.details["ErrorInfo"].domain == "thetaprime"
        return str(self.details["ErrorInfo"].reason)

    @property
    def metadata(self) -> dict[str, str]:
        return dict(self.details["ErrorInfo"].metadata)

    @property
    def retry_delay(self) -> float:
        return float(self.details["RetryInfo"].retry_delay.ToNanoseconds()) / 1e9

    def read(self, error: grpc.RpcError) -> None:
        assert isinstance(error, grpc.Call)
        status = rpc_status.from_call(error)
        assert status is not None, f"no details: {error}"
        assert status.code == error.code().value[0]
        assert "Traceback" not in str(error)
        self.code, self.message = error.code(), status.message
        for detail in status.details:
            name = detail.type_url.rpartition(".")[2]
            self.details[name] = getattr(error_details_pb2, name)()
            assert detail.Unpack(self.details[name])


class WithToken(grpc.UnaryUnaryClientInterceptor, grpc.StreamUnaryClientInterceptor):  # type: ignore[type-arg]
    """Adds an authorization header to every call."""

    def __init__(self, authorization: str) -> None:
        self._added = [("authorization", authorization)]

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(details._replace(metadata=[*(details.metadata or ()), *self._added]), request)

    def intercept_stream_unary(self, continuation: Any, details: Any, messages: Any) -> Any:
        return continuation(details._replace(metadata=[*(details.metadata or ()), *self._added]), messages)


class Service:
    """A plain client: generated stubs, with a deadline for each call."""

    def __init__(self, address: str, authorization: str = "", channel: grpc.Channel | None = None) -> None:
        self.address = address
        self.channel = channel or grpc.insecure_channel(address)
        if authorization:
            self.channel = grpc.intercept_channel(self.channel, WithToken(authorization))
        self.stub = AdaptationServiceStub(self.channel)
        self.meta_stub = meta_grpc.MetaPolicyServiceStub(self.channel)

    def create(self, **fields: Any) -> service_pb.CreateSessionResponse:
        request = {"request_id": uuid.uuid4().hex, "meta_policy": NAME, **fields}
        return self.stub.CreateSession(service_pb.CreateSessionRequest(**request), timeout=DEADLINE)

    def get(self, session_id: str) -> service_pb.GetSessionResponse:
        return self.stub.GetSession(service_pb.GetSessionRequest(session_id=session_id), timeout=DEADLINE)

    def send(self, messages: Iterator[service_pb.UploadTrajectoriesRequest]) -> service_pb.UploadTrajectoriesResponse:
        return self.stub.UploadTrajectories(messages, timeout=DEADLINE)

    def upload(
        self,
        session_id: str,
        trajectories: Sequence[wire.Trajectory],
        *,
        upload_id: str = "",
        round_index: int = 0,
    ) -> service_pb.UploadTrajectoriesResponse:
        upload_id = upload_id or uuid.uuid4().hex
        payload, steps = wire.pack(trajectories), sum(len(each) for each in trajectories)
        return self.send(wire.iter_upload(session_id, upload_id, round_index, payload, len(trajectories), steps))

    def adapt(self, session_id: str, round_index: int, batch_sha256: str) -> service_pb.AdaptResponse:
        request = service_pb.AdaptRequest(session_id=session_id, expected_round=round_index, batch_sha256=batch_sha256)
        return self.stub.Adapt(request, timeout=DEADLINE)

    @contextlib.contextmanager
    def refuses(self, session_id: str = "") -> Iterator[Refusal]:
        """Asserts that the call within is refused, and that the session stays as it was."""
        before = self.get(session_id) if session_id else None
        refusal = Refusal()
        with pytest.raises(grpc.RpcError) as caught:
            yield refusal
        refusal.read(caught.value)
        if session_id:
            assert self.get(session_id) == before


@contextlib.contextmanager
def connect(address: str, token: str = "", *, authorization: str = "") -> Iterator[Service]:
    service = Service(address, authorization or (f"Bearer {token}" if token else ""))
    with service.channel:
        yield service


Configure = Callable[..., ServerConfig]
Start = Callable[..., AbstractContextManager[Service]]
Connect = Callable[..., AbstractContextManager[Service]]
WriteTokens = Callable[..., Path]
