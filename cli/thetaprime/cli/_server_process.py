"""Runs a server in its own process for the duration of a command."""

import contextlib
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

_COMMAND: Final = ("-m", "thetaprime.cli")
_READY: Final = "serving on "
_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 30.0


@contextlib.contextmanager
def server_process(*options: str, command: Sequence[str] = _COMMAND) -> Iterator["ServerProcess"]:
    """Starts ``thetaprime serve`` on a free port with an empty store, and stops it at the end, SIGTERM included.

    Args:
        options: more options of ``thetaprime serve``.
        command: arguments of Python that run the command.
    """
    with _exit_on_sigterm(), tempfile.TemporaryDirectory(prefix="thetaprime-") as folder:
        store = ["--address", "127.0.0.1:0", "--store", str(Path(folder) / "store")]
        with (Path(folder) / "log").open("w+") as log:
            process = subprocess.Popen(
                [sys.executable, *command, "serve", *store, *options],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            try:
                yield ServerProcess(process, Path(log.name))
            finally:
                _stop(process)


@contextlib.contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Raises `SystemExit` on SIGTERM, whose default action ends the process without cleaning up."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set a handler
        yield
        return

    def exit_once(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal must not interrupt the cleanup
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, exit_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class ServerProcess:
    """A server that is starting, or serves."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def address(self) -> str:
        """Waits until it takes calls.

        Returns:
            ``host:port``.

        Raises:
            RuntimeError: it ended, or did not start in a minute.
        """
        too_late = threading.Timer(_START_SECONDS, self._process.kill)
        too_late.start()
        try:
            assert self._process.stdout is not None  # noqa: S101  # it is a pipe: for mypy
            for line in self._process.stdout:
                if line.startswith(_READY):
                    return line.removeprefix(_READY).strip()
        finally:
            too_late.cancel()
        last = self._log.read_text().strip().splitlines()[-1:] or ["it logged nothing"]
        raise RuntimeError(f"the server did not start: {last[0]}")


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        if process.stdout is not None:
            process.stdout.close()
