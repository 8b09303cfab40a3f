"""A worker's own side: ``python -m thetaprime.server.workers.worker``, for `WorkerProcess` to start.

It reads what it is to be from its standard input, and drains when that is closed: a supervisor that was killed leaves
nobody behind who keeps its port. On standard output it says one word.
"""

import asyncio
import os
import sys
from collections.abc import Callable

from thetaprime.server.app import told_to_stop
from thetaprime.server.errors import StartupError
from thetaprime.server.log import adopt_library_logs, configure_logging
from thetaprime.server.process import serve_until
from thetaprime.server.workers.process import Order, Word


def main() -> int:
    """Runs a worker until it is told to stop; the exit status."""
    # The pipe is for the one word; what a library prints goes where the logs go.
    supervisor = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    order = Order.from_line(sys.stdin.buffer.readline())
    configure_logging(worker=order.worker)
    adopt_library_logs()

    def say(word: Word) -> None:
        with supervisor:
            supervisor.write(word.to_line())

    try:
        asyncio.run(_serve(order, say))
    except StartupError as error:
        say(Word(str(error)))
        return 1
    return 0


async def _serve(order: Order, say: Callable[[Word], None]) -> None:
    told = told_to_stop()
    asyncio.get_running_loop().add_reader(0, _told_by_the_end, told)
    await serve_until(told, order.config, lambda _: say(Word()), worker=order.worker)


def _told_by_the_end(told: asyncio.Event) -> None:
    if not os.read(0, 1):
        asyncio.get_running_loop().remove_reader(0)
        told.set()


if __name__ == "__main__":
    sys.exit(main())
