"""A server process that a test kills, and starts again on the same store."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, Self

from thetaprime.server import failpoints

_START_SECONDS: Final = 120.0
_STOP_SECONDS: Final = 60.0


# Below the ports that Linux assigns by itself: while the server is down, no other server gets its port and its clients.
_PORTS: Final = range(20_000, 32_000)


def reserve_port() -> int:
    """Returns a port that no socket is bound to."""
    while True:
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", random.choice(_PORTS)))
            return int(free.getsockname()[1])


class ServerProcess:
    """``thetaprime serve`` on one store: several processes, one after the other, at one address.

    Args:
        folder: for the store and the log.
        zoo: folder of meta-policies; None for the shipped ones.
        options: of ``thetaprime serve``.

    Attributes:
        address: the same for each process.
        store: folder of the store.
        log: file with the standard error of all processes.
    """

    def __init__(self, folder: Path, zoo: Path | None, *options: str) -> None:
        self.address = f"127.0.0.1:{reserve_port()}"
        self.store, self.log = folder / "store", folder / "server.log"
        self._command = [sys.executable, "-m", "thetaprime.cli", "serve", "--address", self.address]
        # The health probe writes blobs, which tests would count.
        self._command += ["--store", str(self.store), "--probe-seconds", "86400", *options]
        if zoo is not None:
            self._command += ["--zoo", str(zoo)]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()

    @property
    def pid(self) -> int:
        """Process id of the running process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> str:
        """Starts a process, waits until it serves, and returns its address."""
        assert self.start_armed(""), f"the server was killed: {self._end_of_log()}"
        return self.address

    def start_armed(self, armed: str) -> bool:
        """Starts a process with failpoints.

        Args:
            armed: failpoints, as in `failpoints.arm`.

        Returns:
            True once the process serves; False if a failpoint killed the process before.
        """
        environment = {**os.environ, failpoints.VARIABLE: armed}
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )
        assert self._process.stdout is not None
        serves = self._process.stdout.readline().startswith("serving on ")
        self._process.stdout.close()
        if not serves:
            status = self._process.wait(_START_SECONDS)
            assert status == -signal.SIGKILL, f"the server ended with status {status}: {self._end_of_log()}"
        return serves

    def wait_killed(self, seconds: float) -> bool:
        """Returns whether SIGKILL ends the process within so many seconds."""
        assert self._process is not None
        end = time.monotonic() + seconds
        while (status := self._process.poll()) is None and time.monotonic() < end:
            time.sleep(0.01)
        assert status in {None, -signal.SIGKILL}, f"the server ended with status {status}: {self._end_of_log()}"
        return status is not None

    def runs(self) -> bool:
        """Returns whether the process has not ended."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """Kills the process with SIGKILL: no handler runs."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """Sends SIGTERM, and returns the exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(_STOP_SECONDS)

    def _end_of_log(self) -> str:
        return self.log.read_text()[-2000:]
