"""A worker's own side: ``python -m thetaprime.server.runtime.workers.worker``, for `WorkerProcess` to start.

It reads what it is to be from its standard input, and drains when that is closed: a supervisor that was killed leaves
nobody behind who keeps its port. On standard output it says one word.
"""

import asyncio
import os
import sys
from collections.abc import Callable

from thetaprime.server.app import stop_on_signals
from thetaprime.server.errors import StartupError
from thetaprime.server.logging import adopt_library_logs, configure_logging
from thetaprime.server.runtime.process import serve_until
from thetaprime.server.runtime.workers.worker_process import ReadyMessage, WorkerSpec


def main() -> int:
    """Runs a worker until it is told to stop; the exit status."""
    # The pipe is for the one word; what a library prints goes where the logs go.
    supervisor = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    order = WorkerSpec.from_line(sys.stdin.buffer.readline())
    configure_logging(worker=order.worker)
    adopt_library_logs()

    def say(word: ReadyMessage) -> None:
        with supervisor:
            supervisor.write(word.to_line())

    try:
        asyncio.run(_serve(order, say))
    except StartupError as error:
        say(ReadyMessage(str(error)))
        return 1
    return 0


async def _serve(order: WorkerSpec, say: Callable[[ReadyMessage], None]) -> None:
    stop_event = stop_on_signals()
    asyncio.get_running_loop().add_reader(0, _told_by_the_end, stop_event)
    await serve_until(stop_event, order.config, lambda _: say(ReadyMessage()), worker=order.worker)


def _told_by_the_end(stop_event: asyncio.Event) -> None:
    if not os.read(0, 1):
        asyncio.get_running_loop().remove_reader(0)
        stop_event.set()


if __name__ == "__main__":
    sys.exit(main())
