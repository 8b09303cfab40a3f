"""SIGTERM ends a server within the grace period and two seconds, in spite of its peers and its store."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import h2.events
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.artifacts import write_point_artifact
from tests.support.faults.http2_peer import Http2Peer, message
from tests.support.server.process import ServerProcess
from tests.support.server.service import connect
from tests.support.server.supervised import SERVE, until
from thetaprime.server import ServerConfig, StartupError
from thetaprime.server.runtime.workers.port import reserve_port

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
GRACE = 1.0
LIMIT = GRACE + 2.0 + 1.0  # a second for a busy machine


def seconds_to_stop(server: ServerProcess) -> float:
    started = time.monotonic()
    assert server.stop() == 0
    return time.monotonic() - started


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("zoo")
    write_point_artifact(root)
    return root


def test_a_peer_that_reads_nothing_and_ends_no_message_delays_no_exit(tmp_path: Path, zoo: Path) -> None:
    with ServerProcess(tmp_path, zoo, "--grace", str(GRACE)) as server, Http2Peer(server.start(), window=0) as peer:
        peer.call("/grpc.health.v1.Health/Watch", message(b""))
        peer.receive(h2.events.ResponseReceived)
        get = "/thetaprime.v1.MetaPolicyService/GetMetaPolicy"
        peer.call(get, message(b"\x0a\x10point-navigation"))
        peer.receive(h2.events.ResponseReceived)
        peer.call(get, message(b"\x0a\x10point-navigation")[:-1], end=False)
        peer.call("/thetaprime.v1.AdaptationService/UploadTrajectories", message(b"")[:3], end=False)
        assert seconds_to_stop(server) < LIMIT


def test_a_store_that_hangs_delays_no_exit(tmp_path: Path, zoo: Path) -> None:
    with (
        ServerProcess(tmp_path, zoo, "--grace", str(GRACE), "--probe-seconds", "0.1") as server,
        connect(server.start()) as service,
        ThreadPoolExecutor(1) as thread,
        contextlib.closing(sqlite3.connect(server.store / "thetaprime.sqlite3", isolation_level=None)) as other,
    ):
        service.create()
        # SQLite waits 10 seconds for this lock, on a thread that nothing can stop.
        other.execute("BEGIN IMMEDIATE")
        call = thread.submit(service.create)
        health = health_pb2_grpc.HealthStub(service.channel)
        until(lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=60).status == NOT_SERVING)
        assert seconds_to_stop(server) < LIMIT
        error = call.exception(60)
        assert isinstance(error, grpc.RpcError)
    assert "not drained in time" in server.log.read_text()


def test_an_event_loop_that_hangs_delays_no_exit(tmp_path: Path, zoo: Path) -> None:
    config = ServerConfig(address="127.0.0.1:0", store=tmp_path / "store", zoo=(zoo,), grace=GRACE)
    # A blocked write of the address hangs the event loop in the same way.
    program = SERVE.replace("print(address, flush=True)", "(print(address, flush=True), time.sleep(3600))")
    command = [sys.executable, "-c", "import time\n" + program, config.model_dump_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline()
        started = time.monotonic()
        process.terminate()
        try:
            assert process.wait(60) == 0
        finally:
            process.kill()
        assert time.monotonic() - started < LIMIT
        assert "not drained in time" in process.stderr.read()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux distributes the connections of one port")
def test_a_worker_that_hangs_delays_no_exit_and_the_port_is_free_at_once(tmp_path: Path, zoo: Path) -> None:
    with ServerProcess(tmp_path, zoo, "--grace", str(GRACE), "--workers", "2") as server:
        # The server closes these connections first, so they occupy its port for a minute.
        with contextlib.ExitStack() as peers:
            address = server.start()
            for _ in range(4):
                peers.enter_context(Http2Peer(address))
            os.kill(children(server.pid)[-1], signal.SIGSTOP)
            assert seconds_to_stop(server) < LIMIT
        with reserve_port(address), pytest.raises(StartupError), reserve_port(address):
            pass


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
