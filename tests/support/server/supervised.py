"""Runs a server of several workers, and calls that reach all of them."""

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc

from thetaprime.server import ServerConfig
from thetaprime.v1.adaptation_service_pb2_grpc import AdaptationServiceStub

Result = TypeVar("Result")
DEADLINE: Final = 60.0
SERVE: Final = """
import asyncio, sys
from thetaprime.server import ServerConfig, serve
config = ServerConfig.model_validate_json(sys.argv[1])
asyncio.run(serve(config, lambda address: print(address, flush=True)))
"""


class Supervised:
    """A running server with several worker processes.

    Attributes:
        process: the supervisor.
        log: file with the standard error of all processes.
        address: of the server; empty if the server did not start.
    """

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        assert process.stdout is not None
        self.process, self.log = process, log
        self.address = process.stdout.readline().strip()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def wait_for_line(self, event: str) -> dict[str, Any]:
        return until(lambda: next((line for line in self.lines() if line["event"] == event), None))

    @property
    def pids(self) -> list[int]:
        """The workers, in the order of their start."""
        return self._children("thetaprime w")

    @property
    def fork_server(self) -> int:
        (pid,) = self._children("thetaprime-fork")
        return pid

    def _children(self, name: str) -> list[int]:
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(each) for each in children if Path(f"/proc/{each}/comm").read_text().startswith(name)]

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(DEADLINE)


@contextlib.contextmanager
def supervised(config: ServerConfig, **environment: str) -> Iterator[Supervised]:
    log = Path(config.store) / "log"
    with (
        log.open("a") as stderr,
        subprocess.Popen(
            [sys.executable, "-c", SERVE, config.model_dump_json()],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, **environment},
        ) as process,
    ):
        try:
            yield Supervised(process, log)
        finally:
            # The workers end when their standard input closes.
            process.kill()


def until(found: Callable[[], Result | None]) -> Result:
    end = time.monotonic() + DEADLINE
    while not (result := found()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return result


def gone(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


class Channels:
    """Several connections, each to a worker that the kernel chose; each call uses a random one."""

    def __init__(self, address: str, count: int, seed: int = 0) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.insecure_channel(address, options=options) for _ in range(count)]
        self.stubs = [AdaptationServiceStub(channel) for channel in self._channels]
        self._choose = random.Random(seed).choice

    def __enter__(self) -> "Channels":
        return self

    def __exit__(self, *_: object) -> None:
        for channel in self._channels:
            channel.close()

    def call_until_served(self, call: Callable[[AdaptationServiceStub], Result]) -> Result:
        """Retries a call, over any connection, while it fails because a worker died; returns its result."""
        end = time.monotonic() + DEADLINE
        while True:
            try:
                return call(self._choose(self.stubs))
            except grpc.RpcError as error:
                transient = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
                if not transient or time.monotonic() > end:
                    raise
                time.sleep(0.02)
