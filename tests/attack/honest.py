"""An honest client beside the attacks: it measures its rounds, and keeps what was acknowledged to ask for it again."""

import contextlib
import dataclasses
import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np

import thetaprime.client as tp
from tests.support.faults.customers import patiently
from tests.support.point_navigation import NAME, play
from thetaprime import wire
from thetaprime.v1 import meta_policy_service_pb2 as meta_pb
from thetaprime.v1.meta_policy_service_pb2_grpc import MetaPolicyServiceStub

_PATIENCE = 60.0
_OWN_CONNECTION = ("grpc.use_local_subchannel_pool", 1)


@dataclasses.dataclass(frozen=True)
class Kept:
    """What the server acknowledged in one session.

    Attributes:
        session_id: the session, in its round 1.
        policy: SHA-256 of θ_1.
        upload: SHA-256 of the upload of round 1, which no step has used.
    """

    session_id: str
    policy: str
    upload: str


@dataclasses.dataclass
class Measured:
    """What the client measured in one stretch of time.

    Attributes:
        rounds: seconds of each round: a session, an upload, a step, and another upload.
        newcomers: seconds of each first call on a new connection.
    """

    rounds: list[float] = dataclasses.field(default_factory=list)
    newcomers: list[float] = dataclasses.field(default_factory=list)


class Honest:
    """Clients that take one round after the other, and that connect again and again, on two threads.

    Args:
        address: of the server.
        token: of their tenant; empty for none.
        authority: PEM file of the server's authority; empty for plain text.

    Attributes:
        kept: everything that was acknowledged.
        measured: of the current stretch; replace it to begin another.
        failures: what ended a thread.
    """

    def __init__(self, address: str, token: str, authority: str) -> None:
        self._address, self._token, self._authority = address, token, authority
        self._seeds = itertools.count()
        self._stop_event = threading.Event()
        credentials = tp.tls_credentials(Path(authority)) if authority else None
        self._client = tp.Client(address, credentials=credentials, token=token or None, timeout=20.0)
        self._threads = [threading.Thread(target=self._repeat, args=(each,)) for each in (self.take_round, self._come)]
        self.kept: list[Kept] = []
        self.measured = Measured()
        self.failures: list[BaseException] = []

    def __enter__(self) -> "Honest":
        return self

    def start(self) -> None:
        """Starts both threads."""
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop_event.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        self._client.close()

    def _connect(self) -> grpc.Channel:
        options = [_OWN_CONNECTION, ("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
        if not self._authority:
            return grpc.insecure_channel(self._address, options)
        credentials = grpc.ssl_channel_credentials(Path(self._authority).read_bytes())
        return grpc.secure_channel(self._address, credentials, options)

    def take_round(self) -> None:
        """Takes a round in a new session, and leaves it with an upload."""
        seed, started = next(self._seeds), time.monotonic()
        rng = np.random.default_rng(seed)
        session = patiently(lambda: self._client.create_session(NAME), _PATIENCE)
        trajectories = play(session.policy, rng)
        patiently(lambda: session.upload(trajectories), _PATIENCE)
        adapted = patiently(session.adapt, _PATIENCE)
        more = play(session.policy, rng)
        upload = patiently(lambda: session.upload(more), _PATIENCE)
        self.measured.rounds.append(time.monotonic() - started)
        self.kept.append(Kept(session.id, wire.sha256_hex(adapted.onnx), upload.sha256))

    def _come(self) -> None:
        started = time.monotonic()
        with self._connect() as channel:
            stub = MetaPolicyServiceStub(channel)
            metadata = (("authorization", f"Bearer {self._token}"),) if self._token else ()
            request = meta_pb.GetMetaPolicyRequest(name=NAME)
            while True:
                with contextlib.suppress(grpc.RpcError):
                    stub.GetMetaPolicy(request, timeout=20, metadata=metadata)
                    break
                if time.monotonic() - started > _PATIENCE:
                    raise TimeoutError("a new client was not served")
        self.measured.newcomers.append(time.monotonic() - started)
        self._stop_event.wait(0.2)

    def _repeat(self, action: Callable[[], None]) -> None:
        try:
            while not self._stop_event.is_set():
                action()
        except BaseException as error:
            self.failures.append(error)


def find_lost(client: tp.Client, kept: list[Kept]) -> list[str]:
    """Asks for everything that was acknowledged; returns a line for each that the server does not have."""
    lost = []
    for each in kept:
        session = patiently(lambda: client.resume(each.session_id), _PATIENCE)  # noqa: B023  # called at once
        if session.info.batch.sha256 != wire.batch_digest([each.upload]):
            lost.append(f"{each.session_id}: upload {each.upload} is lost")
        if wire.sha256_hex(patiently(lambda: session.policy_at(1), _PATIENCE).onnx) != each.policy:  # noqa: B023
            lost.append(f"{each.session_id}: θ_1 has changed")
    return lost
