"""A server process on one store, that dies where it is told to and is started again."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, Self

from thetaprime.server import failpoints

_START_SECONDS: Final = 120.0


class Victim:
    """``thetaprime serve`` over the lives of several processes, always at one address.

    Args:
        folder: for the store and the log.
        zoo: folder of meta-policies.
        options: of ``thetaprime serve``.
    """

    def __init__(self, folder: Path, zoo: Path, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.store, self.log = folder / "store", folder / "server.log"
        self._command = [sys.executable, "-m", "thetaprime.cli", "serve", "--address", self.address]
        # The health probe writes blobs of its own, which are not to be counted.
        self._command += ["--store", str(self.store), "--zoo", str(zoo), "--probe-seconds", "86400", *options]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None
        return self._process.pid

    def start(self, armed: str = "") -> bool:
        """Starts a process.

        Args:
            armed: failpoints, as in `failpoints.arm`.

        Returns:
            Whether it serves; not where a failpoint killed it before.
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
            assert status == -signal.SIGKILL, f"it ended with {status}: {self.log.read_text()[-2000:]}"
        return serves

    def wait_killed(self, seconds: float) -> bool:
        """Whether the process ends by SIGKILL within so many seconds."""
        assert self._process is not None
        end = time.monotonic() + seconds
        while (status := self._process.poll()) is None and time.monotonic() < end:
            time.sleep(0.01)
        assert status in {None, -signal.SIGKILL}, f"it ended with {status}: {self.log.read_text()[-2000:]}"
        return status is not None

    def kill(self) -> None:
        """SIGKILL, at whatever the process is doing."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(60)
