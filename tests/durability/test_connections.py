"""Idle connections, exhausted descriptors and clients that read nothing leave the server serving."""

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

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux's prlimit and /proc"),
]

CONNECTIONS: Final = int(os.environ.get("CONNECTIONS", "200"))
"""Open at once; 10,000 need as many descriptors (ulimit -n) in this process and in the server."""
SPARE: Final = 12
OWN_CONNECTION: Final = [("grpc.use_local_subchannel_pool", 1)]
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
    """A server process that stores each payload and each policy in a separate file."""
    write_point_artifact(tmp_path / "zoo")
    options = ["--row-bytes", "0", "--recent-bytes", "1", "--max-address-connections", str(CONNECTIONS + SPARE)]
    options += ["--max-connections", str(CONNECTIONS + SPARE)]
    with ServerProcess(tmp_path, tmp_path / "zoo", *options) as running:
        running.start()
        yield running
        assert running.stop() == 0
    assert "internal error" not in running.log.read_text()


def take_round(service: Service) -> None:
    created = service.create()
    session_id = created.session.session_id
    assert service.adapt(session_id, 0, service.upload(session_id, collect(created.policy)).batch.sha256).policy.onnx


@pytest.mark.timeout(600)
def test_idle_connections_leave_the_server_serving(server: ServerProcess) -> None:
    with connect(server.address) as service:
        take_round(service)
        before, memory = descriptors(server.pid), resident_kib(server.pid)
        with held_open(server.address, CONNECTIONS):
            wait_for_descriptors(server.pid, at_least=before + CONNECTIONS)
            take_round(service)
            with grpc.insecure_channel(server.address, OWN_CONNECTION) as channel:
                take_round(Service(server.address, channel=channel))
            # Measured: 15 KiB for each of 10,000 connections. The difference includes the memory of the rounds.
            assert resident_kib(server.pid) - memory < 32 * 1024 + 64 * CONNECTIONS
        wait_for_descriptors(server.pid, at_most=before + SPARE)
        take_round(service)


def test_without_descriptors_uploads_are_refused_until_some_are_free(
    server: ServerProcess,
) -> None:
    with connect(server.address) as service:
        take_round(service)
        created = service.create()
        session_id, trajectories = created.session.session_id, collect(created.policy, seed=1)
        before = descriptors(server.pid)
        limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (before + SPARE, limits[1]))
        with held_open(server.address, 3 * SPARE):
            wait_for_descriptors(server.pid, at_least=before + SPARE)
            # A connected client gets answers; a call that needs a file is refused with a reason and a time to retry.
            assert service.get(session_id).session.round == 0
            with service.refuses(session_id) as refusal:
                service.upload(session_id, trajectories, upload_id="u")
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_FAILED")
            assert refusal.retry_delay > 0
        # The limit stays: the closed connections have freed enough descriptors.
        assert service.upload(session_id, trajectories, upload_id="u").batch.uploads == 1
        with grpc.insecure_channel(server.address, OWN_CONNECTION) as channel:
            take_round(Service(server.address, channel=channel))


def test_a_client_that_reads_no_replies_leaves_others_served(server: ServerProcess) -> None:
    with connect(server.address) as service:
        take_round(service)
        before, memory = descriptors(server.pid), resident_kib(server.pid)
        command = [sys.executable, "-c", READS_NOTHING, server.address]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            try:
                assert client.stdout is not None
                assert client.stdout.readline() == "asked\n"
                # Its calls are in progress, and the stopped client reads no more replies.
                client.send_signal(signal.SIGSTOP)
                for _ in range(3):
                    take_round(service)
                assert resident_kib(server.pid) - memory < 64 * 1024
            finally:
                client.kill()
        wait_for_descriptors(server.pid, at_most=before + SPARE)
        take_round(service)
