"""A stalled reader of the log delays nothing: lines are dropped and counted."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.artifacts import write_point_artifact
from tests.support.server.service import connect
from tests.support.server.supervised import SERVE, until
from thetaprime.server import ServerConfig
from thetaprime.server.log_writer import LogWriter

LINE = "x" * 999 + "\n"
GRACE = 1.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    """The reading and the writing end of a pipe."""
    reading, writing = os.pipe()
    with open(writing, "w") as stream:  # noqa: PTH123 - a descriptor
        yield reading, stream
        os.close(reading)


def test_a_stalled_reader_drops_lines_and_delays_none(pipe: tuple[int, TextIO]) -> None:
    reading, stream = pipe
    dropped: list[int] = []
    writer = LogWriter(stream, dropped.append)
    started = time.monotonic()
    for _ in range(5000):
        writer.write(LINE)
    assert time.monotonic() - started < 5
    assert not writer.wait_until_written(0.01)
    # A pipe of 64 KiB, and a queue of 1 MiB.
    assert 3500 < writer.dropped < 4000
    assert not dropped
    received = b""
    while len(received) < (5000 - writer.dropped) * len(LINE):
        received += os.read(reading, 65536)
    assert writer.wait_until_written(60)
    until(lambda: dropped)
    assert dropped == [writer.dropped]
    assert received == LINE.encode() * (5000 - writer.dropped)
    writer.stop(60)


def test_lines_are_written_in_order_and_before_the_wait_ends(pipe: tuple[int, TextIO]) -> None:
    reading, stream = pipe
    writer = LogWriter(stream, lambda _: None)
    for number in range(100):
        writer.write(f"{number}\n")
    assert writer.wait_until_written(60)
    assert os.read(reading, 65536).decode().split() == [str(number) for number in range(100)]
    writer.stop(60)


def test_a_broken_stream_fails_no_line() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream:  # noqa: PTH123 - a descriptor
        writer = LogWriter(stream, lambda _: None)
        writer.write(LINE)
        assert writer.wait_until_written(60)
        writer.stop(60)


def test_a_server_whose_log_is_not_read_serves_answers_health_checks_and_stops(tmp_path: Path) -> None:
    write_point_artifact(tmp_path / "zoo")
    config = ServerConfig(address="127.0.0.1:0", store=tmp_path / "store", zoo=(tmp_path / "zoo",), grace=GRACE)
    command = [sys.executable, "-c", SERVE, config.model_dump_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        with contextlib.ExitStack() as killing:
            killing.callback(process.kill)
            assert process.stdout is not None and process.stderr is not None
            with connect(process.stdout.readline().strip()) as service:
                session_id = service.create().session.session_id
                # Each call logs more than 200 bytes; the pipe holds 65,536.
                for _ in range(400):
                    service.get(session_id)
                health = health_pb2_grpc.HealthStub(service.channel)
                reply = health.Check(health_pb2.HealthCheckRequest(), timeout=60)
                assert reply.status == health_pb2.HealthCheckResponse.SERVING
            started = time.monotonic()
            process.terminate()
            assert process.wait(60) == 0
            assert time.monotonic() - started < GRACE + 3
        assert json.loads(process.stderr.readline())["event"] == "listening"
