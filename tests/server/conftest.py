"""A zoo of one tiny meta-policy, and servers on loopback with a plain gRPC client for each."""

import contextlib
import dataclasses
import itertools
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import structlog
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tests.play import play
from thetaprime import models, wire
from thetaprime.server import ServerConfig, running_server
from thetaprime.server.logging import configure_logging
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import meta_policy_service_pb2_grpc as meta_grpc
from thetaprime.v1 import policy_pb2
from thetaprime.v1.adaptation_service_pb2_grpc import AdaptationServiceStub

NAME = "point-navigation"
DEADLINE = 60.0


@dataclasses.dataclass
class Refusal:
    """How a call was refused; filled in when it was."""

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
    """Sends what it is given as the authorization of every call."""

    def __init__(self, authorization: str) -> None:
        self._added = [("authorization", authorization)]

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(details._replace(metadata=[*(details.metadata or ()), *self._added]), request)

    def intercept_stream_unary(self, continuation: Any, details: Any, messages: Any) -> Any:
        return continuation(details._replace(metadata=[*(details.metadata or ()), *self._added]), messages)


class Service:
    """A client of one server, as thin as can be."""

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
        """The call within is refused, and leaves the session exactly as it was."""
        before = self.get(session_id) if session_id else None
        refusal = Refusal()
        with pytest.raises(grpc.RpcError) as caught:
            yield refusal
        refusal.read(caught.value)
        if session_id:
            assert self.get(session_id) == before


def collect(policy: policy_pb2.Policy, trajectories: int = 4, steps: int = 8, seed: int = 0) -> list[wire.Trajectory]:
    """Plays point navigation; the same seed makes the same trajectories."""
    return play(policy, np.random.default_rng(seed), trajectories, steps)


def write_point_artifact(root: Path, version: int = 1, seed: int = 0) -> models.MetaPolicy:
    environment = models.EnvironmentContract(
        environment_id="thetaprime/PointNavigation-v0",
        observation_shape=(2,),
        action=models.BoxAction(low=(-0.1, -0.1), high=(0.1, 0.1)),
        horizon=100,
    )
    policy_spec = models.PolicySpec(hidden_sizes=(8, 8))
    return models.write_meta_policy(
        root / NAME / str(version),
        name=NAME,
        version=version,
        description="untrained",
        environment=environment,
        policy_spec=policy_spec,
        adaptation=models.AdaptationSpec(inner_lr=0.1),
        parameters=models.Policy(environment, policy_spec).init(seed),
        provenance=models.Provenance.untrained("point-navigation"),
        golden_observations=np.random.default_rng(0).standard_normal((4, 2)).astype(np.float32),
    )


Configure = Callable[..., ServerConfig]
Start = Callable[..., AbstractContextManager[Service]]
Connect = Callable[..., AbstractContextManager[Service]]
WriteTokens = Callable[..., Path]


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of one untrained meta-policy."""
    root = tmp_path_factory.mktemp("zoo")
    for version in (1, 2):
        write_point_artifact(root, version, seed=version)
    return root


@pytest.fixture(scope="session")
def configure(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Configure:
    """Makes a configuration: any free port, a fresh store, and what the test asks for."""
    numbers = itertools.count()

    def make(**fields: Any) -> ServerConfig:
        store = tmp_path_factory.mktemp(f"store-{next(numbers)}")
        return ServerConfig(
            **{
                "address": "127.0.0.1:0",
                "store": store,
                "zoo": (zoo,),
                "adaptation_threads": 2,
                "grace": 20.0,
                **fields,
            }
        )

    return make


@pytest.fixture(scope="session")
def start(configure: Configure) -> Start:
    """Starts a server in this process, for as long as a `with` lasts."""

    @contextlib.contextmanager
    def run(**fields: Any) -> Iterator[Service]:
        with running_server(configure(**fields)) as address, connect(address) as service:
            yield service

    return run


@contextlib.contextmanager
def connect(address: str, token: str = "", *, authorization: str = "") -> Iterator[Service]:
    service = Service(address, authorization or (f"Bearer {token}" if token else ""))
    with service.channel:
        yield service


@pytest.fixture(scope="module")
def service(start: Start) -> Iterator[Service]:
    """One server with the default limits for all the tests of a module."""
    with start() as running:
        yield running


def write_tokens(path: Path, tokens: Mapping[str, str], more: str = "") -> Path:
    """Writes a tokens file as an operator does, in one move: tenants by their tokens."""
    entries = [
        f'[[tokens]]\ntenant = "{tenant}"\nsha256 = "{wire.sha256_hex(token.encode())}"\n'
        for token, tenant in tokens.items()
    ]
    beside = path.with_suffix(".new")
    beside.write_text("\n".join([*entries, more]))
    return beside.replace(path)


@pytest.fixture
def everything_logged() -> Iterator[None]:
    """Servers within tests log warnings only; this one logs all that it would in production."""
    before = structlog.get_config() if structlog.is_configured() else None
    configure_logging(logging.INFO)
    yield
    structlog.reset_defaults()
    if before is not None:
        structlog.configure(**before)


@pytest.fixture(name="write_tokens", scope="session")
def _write_tokens() -> WriteTokens:
    return write_tokens


@pytest.fixture(name="collect", scope="session")
def _collect() -> Callable[..., list[wire.Trajectory]]:
    return collect


@pytest.fixture(name="connect", scope="session")
def _connect() -> Connect:
    return connect


@pytest.fixture(name="write_point_artifact", scope="session")
def _write_point_artifact() -> Callable[..., models.MetaPolicy]:
    return write_point_artifact


@pytest.fixture
def nothing_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are computed when they are asked for, never before."""
    monkeypatch.setattr("thetaprime.server.sessions.uploads.precompute_step", lambda *_: None)
