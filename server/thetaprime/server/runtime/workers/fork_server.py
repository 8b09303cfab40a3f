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
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Final, Self

REQUEST_BYTES: Final = 1 << 16
"""The largest request to the fork server."""
METRICS_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable that names the folder of a process's metrics; it must be set before the imports."""
_PROCESS: Final = "thetaprime.server.runtime.workers.fork_server_process"
_WORKER: Final = "thetaprime.server.runtime.workers.worker"
_PR_SET_CHILD_SUBREAPER: Final = 36
# A fork server that has started a worker starts the next one at once; another one needs its time to import.
_REPLY_SECONDS: Final = 10.0


class ForkServerError(RuntimeError):
    """Workers cannot be started; the message is one line that says why."""


class ForkServer:
    """A process that starts workers, for the duration of the context. The workers are children of this process.

    Begin the context before this process has a second thread: then the fork server is itself a copy of this process,
    and need not import again what this process has imported.

    Args:
        has_metrics: whether the workers write metrics.
        module: whose function `main` is a worker.

    Attributes:
        metrics_folder: where the workers write their metrics, or None.
        pid: its process id; 0 while there is none.

    Raises:
        ForkServerError: on entry, where the system cannot do it.
    """

    def __init__(self, *, has_metrics: bool = False, module: str = _WORKER) -> None:
        self._has_metrics = has_metrics
        self._module = module
        self._turn = asyncio.Lock()
        self.pid = 0
        self._status = 0
        self._is_ready = False
        self._opened = contextlib.ExitStack()
        self.metrics_folder: Path | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as opened:
            if self._has_metrics:
                folder = TemporaryDirectory(prefix="thetaprime-metrics-", ignore_cleanup_errors=True)
                self.metrics_folder = Path(opened.enter_context(folder))
            self._start()
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._opened:
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
            ForkServerError: the fork server cannot start.
        """
        request = json.dumps({"name": name, "environment": dict(environment)}).encode()
        async with self._turn:
            for _ in range(2):
                if not self.pid:
                    self._start()
                try:
                    # TimeoutError: it hangs.
                    with contextlib.suppress(ConnectionError, TimeoutError):
                        socket.send_fds(self._control, [request], descriptors)
                        async with asyncio.timeout(_REPLY_SECONDS if self._is_ready else None):
                            reply = await asyncio.get_running_loop().sock_recv(self._control, 64)
                        if reply:
                            self._is_ready = True
                            return int(reply)
                except BaseException:
                    # A later reply would be taken for that of another request.
                    self._end()
                    raise
                # It was killed, hangs, or could not start.
                self._end()
        raise ForkServerError(f"the process that starts workers ended during its start, with status {self._status}")

    def _start(self) -> None:
        if sys.platform != "linux":
            raise ForkServerError(f"workers: several workers need Linux, and this is {sys.platform}; expected 1")
        # Workers whose parent ends become children of this process: it can wait for them.
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            raise ForkServerError(f"workers: cannot wait for them ({os.strerror(ctypes.get_errno())}); expected 1")
        # Messages keep their boundaries.
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        with theirs:
            self.pid = self._copy(theirs) if _can_be_copied() else self._spawn(theirs)

    def _copy(self, theirs: socket.socket) -> int:
        """Makes a copy of this process the fork server; returns its process id."""
        sys.stdout.flush()
        sys.stderr.flush()
        if pid := os.fork():
            return pid
        try:
            os.environ.update(self._environment())
            os.dup2(theirs.fileno(), 0)
            # All but standard error, as in a new process. Their owners live on in frames that never run again.
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            from thetaprime.server.runtime.workers.fork_server_process import serve_forks

            serve_forks(self._module)
        finally:
            os._exit(1)

    def _spawn(self, theirs: socket.socket) -> int:
        """Starts a new process as the fork server; returns its process id."""
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", _PROCESS, self._module],
            {**os.environ, **self._environment()},
            file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)],
        )

    def _environment(self) -> dict[str, str]:
        return {} if self.metrics_folder is None else {METRICS_VARIABLE: str(self.metrics_folder)}

    def _end(self) -> None:
        if self.pid:
            self._control.close()
            os.kill(self.pid, signal.SIGKILL)
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self.pid, self._is_ready = 0, False


def _can_be_copied() -> bool:
    """Whether this process has one thread, and nothing that does not survive a fork."""
    threads = len(list(Path("/proc/self/task").iterdir())) if Path("/proc/self/task").is_dir() else 2
    return threads == 1 and not {"grpc", "torch"} & sys.modules.keys()
