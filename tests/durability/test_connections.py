"""However many connect, and whatever becomes of them: who is there is served, and what they held comes back."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import grpc
import pytest

from tests.support.artifacts import write_point_artifact
from tests.support.faults.connections import descriptors, held_open, resident_kib, wait_for_descriptors
from tests.support.point_navigation import collect
from tests.support.server.process import ServerProcess
from tests.support.server.service import Service, connect

pytestmark = pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux's prlimit and /proc")

CONNECTIONS: Final = int(os.environ.get("CONNECTIONS", "200"))
"""How many there are at once; 10,000 need as many descriptors of this process and of the server (ulimit -n)."""
SPARE: Final = 12
LOCAL: Final = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own
READS_NOTHING: Final = """
import sys, grpc
channel = grpc.insecure_channel(sys.argv[1])
method = channel.unary_unary("/thetaprime.v1.MetaPolicyService/GetMetaPolicy")
calls = [method.future(b"\\x0a\\x10point-navigation") for _ in range(2000)]
calls[0].result()
print("asked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server in its own process; every payload and policy is a file of its own."""
    write_point_artifact(tmp_path / "zoo")
    with ServerProcess(tmp_path, tmp_path / "zoo", "--row-bytes", "0", "--recent-bytes", "1") as running:
        running.start()
        yield running
        assert running.stop() == 0
    assert "internal error" not in running.log.read_text()


def a_round(service: Service) -> None:
    created = service.create()
    session_id = created.session.session_id
    assert service.adapt(session_id, 0, service.upload(session_id, collect(created.policy)).batch.sha256).policy.onnx


@pytest.mark.timeout(600)
def test_connections_that_do_nothing_leave_the_server_serving(server: ServerProcess) -> None:
    with connect(server.address) as service:
        a_round(service)
        before, memory = descriptors(server.pid), resident_kib(server.pid)
        with held_open(server.address, CONNECTIONS):
            wait_for_descriptors(server.pid, at_least=before + CONNECTIONS)
            a_round(service)
            with grpc.insecure_channel(server.address, LOCAL) as channel:
                a_round(Service(server.address, channel=channel))
            # Measured: 15 KiB for each of 10,000. What the rounds took is in it too.
            assert resident_kib(server.pid) - memory < 32 * 1024 + 64 * CONNECTIONS
        wait_for_descriptors(server.pid, at_most=before + SPARE)
        a_round(service)


def test_where_descriptors_run_out_calls_are_refused_by_name_and_go_on_when_there_are_some_again(
    server: ServerProcess,
) -> None:
    with connect(server.address) as service:
        a_round(service)
        created = service.create()
        session_id, trajectories = created.session.session_id, collect(created.policy, seed=1)
        before = descriptors(server.pid)
        limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (before + SPARE, limits[1]))
        with held_open(server.address, 3 * SPARE):
            wait_for_descriptors(server.pid, at_least=before + SPARE)
            # Who is connected is answered; what needs a file is told to come again, and why.
            assert service.get(session_id).session.round == 0
            with service.refuses(session_id) as refusal:
                service.upload(session_id, trajectories, upload_id="u")
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_FAILED")
            assert refusal.retry_delay > 0
        # Without a change of its limit: the connections that went away are enough.
        assert service.upload(session_id, trajectories, upload_id="u").batch.uploads == 1
        with grpc.insecure_channel(server.address, LOCAL) as channel:
            a_round(Service(server.address, channel=channel))


def test_a_client_that_reads_no_replies_costs_nobody_else_anything(server: ServerProcess) -> None:
    with connect(server.address) as service:
        a_round(service)
        before, memory = descriptors(server.pid), resident_kib(server.pid)
        command = [sys.executable, "-c", READS_NOTHING, server.address]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            try:
                assert client.stdout is not None
                assert client.stdout.readline() == "asked\n"
                # It is there, its calls are under way, and it reads nothing any more.
                client.send_signal(signal.SIGSTOP)
                for _ in range(3):
                    a_round(service)
                assert resident_kib(server.pid) - memory < 64 * 1024
            finally:
                client.kill()
        wait_for_descriptors(server.pid, at_most=before + SPARE)
        a_round(service)
