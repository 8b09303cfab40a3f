"""A server process: a kill loses no acknowledged data, and SIGTERM finishes running calls."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from thetaprime import wire
from thetaprime.server import ServerConfig
from thetaprime.v1 import adaptation_service_pb2 as service_pb

if TYPE_CHECKING:
    from tests.support.server.service import Configure, Service, Start

Collect = Callable[..., list[wire.Trajectory]]
Connect = Callable[[str], AbstractContextManager["Service"]]

SERVE = """
import asyncio, sys
from thetaprime.server import ServerConfig, serve
config = ServerConfig.model_validate_json(sys.argv[1])
asyncio.run(serve(config, lambda address: print(address, flush=True)))
"""
# The same, with a step that prints when it starts and continues after a line of input.
SERVE_STEPWISE = (
    """
import sys
import time
from thetaprime.server.adaptation import step
from thetaprime.server.adaptation.engine import AdaptationEngine
def no_precomputation(engine, upload):
    pass
AdaptationEngine.precompute = no_precomputation
contributions = step.trajectory_contributions
def trajectory_contributions(*args, **kwargs):
    print("stepping", flush=True)
    sys.stdin.readline()
    return contributions(*args, **kwargs)
step.trajectory_contributions = trajectory_contributions
"""
    + SERVE
)


class Process:
    """A running server process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.address = self.read()

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def resume(self) -> None:
        stdin: IO[str] | None = self.process.stdin
        assert stdin is not None
        stdin.write("go on\n")
        stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        assert self.process.wait(60) == -signal.SIGKILL


@contextlib.contextmanager
def process(config: ServerConfig, script: str = SERVE) -> Iterator[Process]:
    with (
        (Path(config.store) / "log").open("a") as log,
        subprocess.Popen(
            [sys.executable, "-c", script, config.model_dump_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as started,
    ):
        try:
            yield Process(started)
        finally:
            started.kill()


def adapt_later(service: "Service", session_id: str, batch_sha256: str) -> Any:
    request = service_pb.AdaptRequest(session_id=session_id, batch_sha256=batch_sha256)
    return service.stub.Adapt.future(request, timeout=60)


@pytest.mark.slow
def test_a_server_killed_before_and_during_the_step_loses_nothing(
    configure: "Configure", start: "Start", collect: Collect, connect: Connect
) -> None:
    config = configure()
    with process(config) as first, connect(first.address) as service:
        created = service.create(request_id="r")
        session_id = created.session.session_id
        acks = [
            service.upload(session_id, collect(created.policy, seed=seed), upload_id=f"u{seed}") for seed in range(2)
        ]
        before = service.get(session_id)
        first.kill()
    with process(config, SERVE_STEPWISE) as second, connect(second.address) as service:
        assert service.get(session_id) == before
        assert service.create(request_id="r").session == before.session
        assert service.upload(session_id, collect(created.policy, seed=0), upload_id="u0") == acks[0]
        call = adapt_later(service, session_id, acks[1].batch.sha256)
        assert second.read() == "stepping"
        second.kill()
        with pytest.raises(grpc.RpcError):
            call.result()
    with process(config) as third, connect(third.address) as service:
        assert service.get(session_id) == before
        reply = service.adapt(session_id, 0, acks[1].batch.sha256)
        third.kill()
    with start(store=config.store) as service:
        again = service.adapt(session_id, 0, acks[1].batch.sha256)
        assert again.SerializeToString(deterministic=True) == reply.SerializeToString(deterministic=True)

    with start() as service:
        undisturbed = service.create()
        for seed in (1, 0):
            ack = service.upload(undisturbed.session.session_id, collect(undisturbed.policy, seed=seed))
        expected = service.adapt(undisturbed.session.session_id, 0, ack.batch.sha256)
    assert reply.policy == expected.policy


def test_a_stopping_server_finishes_its_step_and_refuses_new_calls(
    configure: "Configure", start: "Start", collect: Collect, connect: Connect
) -> None:
    config = configure()
    with process(config, SERVE_STEPWISE) as server, connect(server.address) as service:
        created = service.create()
        session_id = created.session.session_id
        batch = service.upload(session_id, collect(created.policy)).batch
        call = adapt_later(service, session_id, batch.sha256)
        assert server.read() == "stepping"
        server.process.send_signal(signal.SIGTERM)
        checks = health_pb2_grpc.HealthStub(service.channel)
        status = health_pb2.HealthCheckResponse.SERVING
        while status == health_pb2.HealthCheckResponse.SERVING:
            time.sleep(0.02)
            status = checks.Check(health_pb2.HealthCheckRequest(), timeout=60).status
        assert status == health_pb2.HealthCheckResponse.NOT_SERVING
        with service.refuses() as refusal:
            service.get(session_id)
        assert refusal.code is grpc.StatusCode.UNAVAILABLE
        assert refusal.retry_delay > 0
        server.resume()
        reply = call.result()
        assert server.process.wait(60) == 0
    with start(store=config.store) as service:
        assert service.get(session_id).session == reply.session
        assert service.adapt(session_id, 0, batch.sha256) == reply

    entries = [json.loads(line) for line in (Path(config.store) / "log").read_text().splitlines()]
    calls = [entry for entry in entries if entry["event"] == "call"]
    logged = next(entry for entry in calls if entry["method"].endswith("/Adapt"))
    assert (logged["event"], logged["code"], logged["session_id"]) == ("call", "OK", session_id)
    assert logged["seconds"] > 0
    assert entries[-1]["event"] == "stopped"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_stops_at_once(configure: "Configure", number: signal.Signals) -> None:
    with process(configure()) as server:
        server.process.send_signal(number)
        assert server.process.wait(60) == 0


@pytest.mark.slow
def test_a_stopping_server_waits_no_longer_than_its_grace_period(
    configure: "Configure", connect: Connect, collect: Collect
) -> None:
    with process(configure(grace=0.01), SERVE_STEPWISE) as server, connect(server.address) as service:
        created = service.create()
        session_id = created.session.session_id
        batch = service.upload(session_id, collect(created.policy)).batch
        call = adapt_later(service, session_id, batch.sha256)
        assert server.read() == "stepping"
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError):
            call.result()
        server.resume()
        assert server.process.wait(60) == 0
