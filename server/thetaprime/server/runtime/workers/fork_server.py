"""The supervisor's side of the fork server: a process that has imported torch once, and of which workers are copies.

Importing torch and gRPC takes more than a second. Copies of a process that has imported them start at once, share their
memory, and do not compete for the processors. The fork server has one thread and no gRPC objects, so that it can be
copied safely. It keeps no state: when it is killed, the next start makes another.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Self

from thetaprime.server.errors import StartupError

REQUEST_BYTES: Final = 1 << 16
"""The largest request to the fork server."""
_PROCESS: Final = "thetaprime.server.runtime.workers.fork_server_process"
_WORKER: Final = "thetaprime.server.runtime.workers.worker"
_PR_SET_CHILD_SUBREAPER: Final = 36


class ForkServer:
    """A process that starts workers, for the duration of the context. The workers are children of this process.

    Args:
        environment: variables to set beside those of this process, before the imports.
        module: whose function `main` is a worker.
    """

    def __init__(self, environment: Mapping[str, str], module: str = _WORKER) -> None:
        self._environment = environment
        self._module = module
        self._turn = asyncio.Lock()
        self._status: int | None = None
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    async def fork(self, name: str, environment: Mapping[str, str], descriptors: Sequence[int]) -> int:
        """Starts a worker.

        Args:
            name: of its process, at most 15 characters.
            environment: variables to set; an empty value unsets a variable.
            descriptors: its standard input and its standard output.

        Returns:
            Its process id. The caller must wait for the process.

        Raises:
            StartupError: the fork server cannot start.
        """
        request = json.dumps({"name": name, "environment": dict(environment)}).encode()
        async with self._turn:
            for _ in range(2):
                if self._status is not None:
                    self._start()
                try:
                    with contextlib.suppress(ConnectionError):
                        socket.send_fds(self._control, [request], descriptors)
                        if reply := await asyncio.get_running_loop().sock_recv(self._control, 64):
                            return int(reply)
                except BaseException:
                    # A later reply would be taken for that of another request.
                    self._end()
                    raise
                # It was killed, or could not start.
                self._end()
        raise StartupError(f"the process that starts workers ended during its start, with status {self._status}")

    def _start(self) -> None:
        if sys.platform != "linux":
            raise StartupError(f"workers: several workers need Linux, and this is {sys.platform}; expected 1")
        # Workers whose parent ends become children of this process: it can wait for them.
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            raise StartupError(f"workers: cannot wait for them ({os.strerror(ctypes.get_errno())}); expected 1")
        # Messages keep their boundaries.
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        with theirs:
            self._status = None
            self._process = subprocess.Popen(
                [sys.executable, "-m", _PROCESS, self._module],
                stdin=theirs.fileno(),
                env={**os.environ, **self._environment},
            )

    def _end(self) -> None:
        if self._status is None:
            self._control.close()
            self._process.kill()
            self._status = self._process.wait()
