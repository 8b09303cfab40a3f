"""A real server process, to start, kill and start again on the same store."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


class Service:
    """``thetaprime serve`` on one store, over the lives of several processes."""

    def __init__(self, store: Path, zoo: Path | None) -> None:
        self._store, self._zoo = store, zoo
        self._process: subprocess.Popen[str] | None = None
        self._port = 0

    def start(self) -> str:
        """Starts a process (again, on the same port) and waits until it serves; its address."""
        command = [sys.executable, "-m", "thetaprime.cli", "serve", "--address", f"127.0.0.1:{self._port}"]
        command += ["--store", str(self._store)]
        if self._zoo is not None:
            command += ["--zoo", str(self._zoo)]
        with (self._store.parent / "server.log").open("a") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("serving on "), (self._store.parent / "server.log").read_text()
        address = line.removeprefix("serving on ").strip()
        self._port = int(address.rpartition(":")[2])
        return address

    def kill(self) -> None:
        """kill -9: no handler runs."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        if self._process is None:
            return 0
        os.kill(self._process.pid, number)
        status = self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None
        return status


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A server of the shipped zoo, not yet started."""
    made = Service(tmp_path / "store", None)
    with contextlib.ExitStack() as stack:
        stack.callback(made.stop)
        yield made
