"""The supervisor's side of a worker: starts its process, sends its `WorkerSpec`, reads its `ReadyMessage`, stops it."""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
from collections.abc import Mapping
from typing import Final, Self

from thetaprime.server.config import ServerConfig
from thetaprime.server.errors import StartupError
from thetaprime.server.runtime.workers.fork_server import ForkServer, ForkServerError

BEAT: Final = b"\n"
"""What a worker writes to its standard output each second."""
BEAT_SECONDS: Final = 1.0
"""Between two beats."""
_MISSED_BEATS: Final = 10


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
    """A started worker, a child of this process.

    Args:
        pid: its process id.
        messages: its standard output.
        stdin: its standard input, which stays open until the worker ends.

    Attributes:
        pid: its process id.
    """

    def __init__(self, pid: int, messages: asyncio.StreamReader, stdin: asyncio.WriteTransport) -> None:
        self.pid = pid
        self._messages, self._stdin = messages, stdin
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        # Readable once the process has ended. It names this process even after its id is used again.
        self._descriptor = os.pidfd_open(pid)
        self._loop.add_reader(self._descriptor, self._take_status)

    @classmethod
    async def start(cls, spec: WorkerSpec, environment: Mapping[str, str], fork_server: ForkServer) -> Self:
        """Starts a worker.

        Args:
            spec: the worker's number and settings.
            environment: variables to set beside those of the fork server; an empty value unsets a variable.
            fork_server: of which the worker is a copy.

        Raises:
            StartupError: the fork server cannot start.
        """
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as failing:
            with contextlib.ExitStack() as theirs:
                reading, stdin = (os.fdopen(each, mode) for each, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
                theirs.enter_context(reading)
                failing.enter_context(stdin)
                messages, writing = (os.fdopen(each, mode) for each, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
                failing.enter_context(messages)
                theirs.enter_context(writing)
                name = f"thetaprime w{spec.worker}"
                try:
                    pid = await fork_server.fork(name, environment, (reading.fileno(), writing.fileno()))
                except ForkServerError as error:
                    raise StartupError(str(error)) from error
            reader = asyncio.StreamReader()
            await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), messages)
            transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, stdin)
            failing.pop_all()
        transport.write(spec.to_line())
        return cls(pid, reader, transport)

    def _take_status(self) -> None:
        self._loop.remove_reader(self._descriptor)
        _, status = os.waitpid(self.pid, 0)
        os.close(self._descriptor)
        self._stdin.close()
        self._ended.set_result(os.waitstatus_to_exitcode(status))

    async def wait_until_ready(self) -> None:
        """Waits until the worker accepts calls.

        Raises:
            StartupError: it cannot start, or has ended.
        """
        line = await self._messages.readline()
        if not line:
            raise StartupError(f"a worker ended during its start, with status {await self.wait()}")
        if problem := ReadyMessage(**json.loads(line)).problem:
            raise StartupError(problem)

    async def wait(self) -> int:
        """Waits until the process ends; returns its exit status, or the negated number of the signal that ended it."""
        return await asyncio.shield(self._ended)

    async def hangs(self) -> bool:
        """Waits until the worker ends or hangs; returns whether it hangs: it has missed ten beats in a row.

        Beats are counted, and no time is measured: when the machine, or the supervisor with its workers, was paused for
        a minute, one beat is missing.
        """
        missed = 0
        while missed < _MISSED_BEATS:
            try:
                async with asyncio.timeout(BEAT_SECONDS):
                    if not await self._messages.read(4096):
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
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL; does nothing if the process has ended."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if not self._ended.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)
