"""The entry point of a worker, ``python -m thetaprime.server.runtime.workers.worker``, started by `WorkerProcess`.

A worker reads its `WorkerSpec` from standard input, and writes one `ReadyMessage` to standard output. It drains when
standard input closes, so the workers of a killed supervisor end and release its port.
"""

import asyncio
import os
import sys
from collections.abc import Callable

from thetaprime.server.errors import StartupError
from thetaprime.server.logging import adopt_library_logs, configure_logging
from thetaprime.server.runtime.process import serve_until
from thetaprime.server.runtime.stopping import EXIT_SECONDS, stop_on_signals
from thetaprime.server.runtime.workers.worker_process import ReadyMessage, WorkerSpec


def main() -> int:
    """Runs a worker until it is stopped; returns the exit status."""
    # The original standard output carries only the ReadyMessage; output of libraries goes to standard error.
    supervisor = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    spec = WorkerSpec.from_line(sys.stdin.buffer.readline())
    configure_logging(worker=spec.worker)
    adopt_library_logs()

    def send(message: ReadyMessage) -> None:
        with supervisor:
            supervisor.write(message.to_line())

    try:
        asyncio.run(_serve(spec, send))
    except StartupError as error:
        send(ReadyMessage(str(error)))
        return 1
    return 0


async def _serve(spec: WorkerSpec, send: Callable[[ReadyMessage], None]) -> None:
    with stop_on_signals(spec.config.drain_seconds + EXIT_SECONDS) as stop_event:
        asyncio.get_running_loop().add_reader(0, _stop_at_end_of_input, stop_event)
        await serve_until(stop_event, spec.config, lambda _: send(ReadyMessage()), worker=spec.worker)


def _stop_at_end_of_input(stop_event: asyncio.Event) -> None:
    if not os.read(0, 1):
        asyncio.get_running_loop().remove_reader(0)
        stop_event.set()


if __name__ == "__main__":
    sys.exit(main())
