"""The supervisor's side of a worker: starts its process, sends its `WorkerSpec`, reads its `ReadyMessage`, stops it."""

import asyncio
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from typing import Final, Self

from thetaprime.server.config import ServerConfig
from thetaprime.server.errors import StartupError

BEAT: Final = b"\n"
"""What a worker writes to its standard output each second."""
BEAT_SECONDS: Final = 1.0
"""Between two beats."""
_MISSED_BEATS: Final = 10
_MODULE: Final = "thetaprime.server.runtime.workers.worker"


@dataclasses.dataclass(frozen=True)
class WorkerSpec:
    """The number and the settings of a worker, sent to its standard input as one line of JSON.

    Attributes:
        worker: its number, from 0.
        config: the settings, with the address that the supervisor reserved.
    """

    worker: int
    config: ServerConfig

    def to_line(self) -> bytes:
        """Encodes the spec. It goes to standard input: settings may be secret, and a command line is public."""
        return json.dumps({"worker": self.worker, "config": self.config.model_dump(mode="json")}).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """Decodes the line that `to_line` encoded."""
        found = json.loads(line)
        # The line sets every setting, so neither the environment nor a config file changes any.
        return cls(found["worker"], ServerConfig(**{**found["config"], "config": None}))


@dataclasses.dataclass(frozen=True)
class ReadyMessage:
    """The first message of a worker: it accepts calls, or it cannot start.

    Attributes:
        problem: why it cannot start; empty if it accepts calls.
    """

    problem: str = ""

    def to_line(self) -> bytes:
        """Encodes the message for the worker's standard output."""
        return json.dumps(dataclasses.asdict(self)).encode() + b"\n"


class WorkerProcess:
    """A started worker.

    Attributes:
        pid: its process id.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    @classmethod
    async def start(cls, spec: WorkerSpec, environment: Mapping[str, str]) -> Self:
        """Starts a new process, without fork: torch and gRPC do not survive one.

        Args:
            spec: the worker's number and settings.
            environment: variables to set beside those of this process; an empty value unsets a variable.
        """
        variables = {name: value for name, value in {**os.environ, **environment}.items() if value}
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", _MODULE, stdin=pipe, stdout=pipe, env=variables
        )
        if process.stdin is not None:  # for mypy: it is a pipe
            process.stdin.write(spec.to_line())
        return cls(process)

    async def wait_until_ready(self) -> None:
        """Waits until the worker accepts calls.

        Raises:
            StartupError: it cannot start, or has ended.
        """
        line = b"" if self._process.stdout is None else await self._process.stdout.readline()
        if not line:
            raise StartupError(f"a worker ended during its start, with status {await self.wait()}")
        if problem := ReadyMessage(**json.loads(line)).problem:
            raise StartupError(problem)

    async def wait(self) -> int:
        """Waits until the process ends; returns its exit status, or the negated number of the signal that ended it."""
        return await self._process.wait()

    async def hangs(self) -> bool:
        """Waits until the worker ends or hangs; returns whether it hangs: it has missed ten beats in a row.

        Beats are counted, and no time is measured: when the machine, or the supervisor with its workers, was paused for
        a minute, one beat is missing.
        """
        missed = 0
        while missed < _MISSED_BEATS:
            try:
                async with asyncio.timeout(BEAT_SECONDS):
                    if self._process.stdout is None or not await self._process.stdout.read(4096):
                        break
                missed = 0
            except TimeoutError:
                missed += 1
        else:
            return True
        await self.wait()
        return False

    def stop(self) -> None:
        """Sends SIGTERM, so that the worker drains; does nothing if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        """Sends SIGKILL; does nothing if the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
