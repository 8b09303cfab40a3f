"""The entry point of a worker, a copy of the fork server, started by `WorkerProcess`.

A worker reads its `WorkerSpec` from standard input. It writes one `ReadyMessage`, and then a beat each second, to its
standard output. It drains when standard input closes, so the workers of a killed supervisor end and release its port.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable

from thetaprime.server.errors import StartupError
from thetaprime.server.logging import adopt_library_logs, configure_logging, flush_logs
from thetaprime.server.runtime import lifecycle as _imported_by_the_fork_server  # noqa: F401
from thetaprime.server.runtime.process import serve_until
from thetaprime.server.runtime.stopping import EXIT_SECONDS, stop_on_signals
from thetaprime.server.runtime.workers.worker_process import BEAT, BEAT_SECONDS, ReadyMessage, WorkerSpec


def main() -> int:
    """Runs a worker until it is stopped; returns the exit status."""
    # The original standard output carries messages to the supervisor; output of libraries goes to standard error.
    supervisor = os.dup(1)
    os.set_blocking(supervisor, False)
    os.dup2(2, 1)
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        # The supervisor has stopped, or could not start another worker, before it sent the whole line.
        return 0
    spec = WorkerSpec.from_line(line)
    configure_logging(spec.config.log_level, audited=True, worker=spec.worker)
    adopt_library_logs(spec.config.log_level)

    def send(line: bytes) -> None:
        # The supervisor was killed, or does not read: then it needs no beat either.
        with contextlib.suppress(BrokenPipeError, BlockingIOError):
            os.write(supervisor, line)

    try:
        asyncio.run(_serve(spec, send))
    except StartupError as error:
        send(ReadyMessage(str(error)).to_line())
        return 1
    finally:
        flush_logs()
    return 0


async def _serve(spec: WorkerSpec, send: Callable[[bytes], None]) -> None:
    beating: list[asyncio.Task[None]] = []

    def start_beating(_address: str) -> None:
        send(ReadyMessage().to_line())
        beating.append(asyncio.create_task(_beat(send)))

    with stop_on_signals(spec.config.drain_seconds + EXIT_SECONDS) as stop_event:
        asyncio.get_running_loop().add_reader(0, _stop_at_end_of_input, stop_event)
        await serve_until(stop_event, spec.config, start_beating, worker=spec.worker)


async def _beat(send: Callable[[bytes], None]) -> None:
    """Tells the supervisor, each second, that the event loop runs."""
    while True:
        send(BEAT)
        await asyncio.sleep(BEAT_SECONDS)


def _stop_at_end_of_input(stop_event: asyncio.Event) -> None:
    if not os.read(0, 1):
        asyncio.get_running_loop().remove_reader(0)
        stop_event.set()
