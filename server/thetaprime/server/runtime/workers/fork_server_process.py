"""The process of the fork server, started by `ForkServer`.

It imports a module, and then starts a worker for each request on its standard input, a Unix socket. A request is one
line of JSON with the standard input and output of the worker beside it; the reply is the worker's process id. It ends
when the socket closes.
"""

import ctypes
import importlib
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from thetaprime.server.runtime.tuning import freeze_startup_objects
from thetaprime.server.runtime.workers.fork_server import REQUEST_BYTES

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_NAME: Final = "thetaprime-fork"
_PR_SET_PDEATHSIG: Final = 1


def serve_forks(module: str) -> None:
    """Starts workers until the supervisor ends, and ends the process.

    Args:
        module: whose function `main` is a worker.
    """
    status = 1
    try:
        _serve_forks(module)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _serve_forks(module: str) -> None:
    # Also while it imports, it ends with the supervisor. A copy does not inherit this.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # A signal to the whole group is for the supervisor and the workers.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # The standard output belongs to the supervisor.
    os.dup2(2, 1)
    _name_process(_NAME)
    with freeze_startup_objects():
        worker = importlib.import_module(module)
    with socket.socket(fileno=0) as control:
        while True:
            request, descriptors, _, _ = socket.recv_fds(control, REQUEST_BYTES, 2)
            if not request:
                return
            pid = _fork(lambda: _become_worker(json.loads(request), descriptors, control, worker.main))  # noqa: B023
            for each in descriptors:
                os.close(each)
            with suppress(ConnectionError):
                control.send(str(pid).encode())


def _fork(run: Callable[[], None]) -> int:
    """Runs a function in a process whose parent has ended, and which so becomes a child of the supervisor."""
    reading, writing = os.pipe()
    if not (parent := os.fork()):
        if pid := os.fork():
            os.write(writing, str(pid).encode())
            os._exit(0)
        os.close(reading)
        os.close(writing)
        run()
    os.close(writing)
    with os.fdopen(reading, "rb") as pids:
        pid = int(pids.read())
    os.waitpid(parent, 0)
    return pid


def _become_worker(
    request: dict[str, Any], descriptors: list[int], control: socket.socket, run: Callable[[], int]
) -> None:
    """Runs a worker in this process, and ends the process."""
    status = 1
    try:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
        # The control socket is descriptor 0.
        control.detach()
        for target, each in enumerate(descriptors):
            os.dup2(each, target)
            os.close(each)
        for name, value in request["environment"].items():
            if value:
                os.environ[name] = value
            else:
                os.environ.pop(name, None)
        _name_process(request["name"])
        status = run()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _name_process(name: str) -> None:
    """Names the process, for ps and top."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name, encoding="utf-8")


if __name__ == "__main__":
    serve_forks(sys.argv[1])
