"""A worker as its supervisor sees it: a process with a pipe in, which holds it, and one out, for its one word."""

import asyncio
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from typing import Self

from thetaprime.server.config import ServerConfig
from thetaprime.server.errors import StartupError

MODULE = "thetaprime.server.runtime.workers.worker"
"""What a worker runs."""


@dataclasses.dataclass(frozen=True)
class WorkerSpec:
    """What a worker is to be; it travels as one line of JSON.

    Attributes:
        worker: its number, counted from 0.
        config: the settings, with the address that is held for all.
    """

    worker: int
    config: ServerConfig

    def to_line(self) -> bytes:
        """For the worker's standard input: settings may be secret, and a command line is not."""
        return json.dumps({"worker": self.worker, "config": self.config.model_dump(mode="json")}).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """Reads what `to_line` wrote."""
        found = json.loads(line)
        # All settings are there, and so neither the environment nor a file has a say again.
        return cls(found["worker"], ServerConfig(**{**found["config"], "config": None}))


@dataclasses.dataclass(frozen=True)
class ReadyMessage:
    """What a worker says once: that it takes calls, or why it cannot.

    Attributes:
        problem: empty where it takes calls.
    """

    problem: str = ""

    def to_line(self) -> str:
        """For the worker's standard output."""
        return json.dumps(dataclasses.asdict(self)) + "\n"


class WorkerProcess:
    """A worker that was started.

    Attributes:
        pid: of its process.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    @classmethod
    async def start(cls, order: WorkerSpec, environment: Mapping[str, str]) -> Self:
        """Starts a process; a fresh one, since what torch and gRPC hold does not survive a fork.

        Args:
            order: what it is to be.
            environment: variables beside this process's own; an empty one is taken away.
        """
        inherited = {name: value for name, value in {**os.environ, **environment}.items() if value}
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", MODULE, stdin=pipe, stdout=pipe, env=inherited
        )
        if process.stdin is not None:  # for mypy: it is a pipe
            process.stdin.write(order.to_line())
        return cls(process)

    async def ready(self) -> None:
        """Waits until it takes calls.

        Raises:
            StartupError: it cannot, or has ended.
        """
        line = b"" if self._process.stdout is None else await self._process.stdout.readline()
        if not line:
            raise StartupError(f"a worker ended while it started, with status {await self.ended()}")
        if problem := ReadyMessage(**json.loads(line)).problem:
            raise StartupError(problem)

    async def ended(self) -> int:
        """Waits for its end; the status, or the negated signal that ended it."""
        return await self._process.wait()

    def stop(self) -> None:
        """Has it drain; no error where it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
