"""Worker processes that step environments.

One message makes a worker step all of its environments. Observations, rewards, flags and actions are in shared memory.
Processes start slowly, so one pool serves all vector environments that sampling makes. Workers are spawned, not forked:
a fork would leave the threads of torch and gRPC in an undefined state. A worker exits when its pipe closes, so no
worker outlives its parent, even one that is killed.
"""

import atexit
import contextlib
import dataclasses
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, Final

from gymnasium.vector import VectorEnv

from thetaprime.training.tasks.environment_share import Share, Slots
from thetaprime.training.tasks.protocol import TaskDistribution

_EXIT_SECONDS: Final = 5.0


class WorkerError(RuntimeError):
    """An environment raised an exception in a worker process, or the process died."""


@dataclasses.dataclass(frozen=True)
class _Failure:
    """A worker's answer after an exception in an environment."""

    busy: int | None
    summary: str
    traceback: str


def _work(pipe: Connection, worker: int) -> None:
    """Runs a worker: answers each message until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent handles it
    distribution: Any = None
    shares: dict[int, Share] = {}
    slots = Slots()
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            vector, verb, arguments = pipe.recv()
            share = shares.get(vector) or Share(worker, slots)
            try:
                answer: Any = None
                if verb == "distribution":
                    distribution = pickle.loads(*arguments)  # noqa: S301  # from our own parent
                elif verb == "make":
                    shares[vector] = share
                    answer = share.make(distribution, *arguments)
                elif verb == "close":
                    shares.pop(vector, share).close()
                else:
                    answer = getattr(share, verb)(*arguments)
            except Exception as error:
                share.failed = True
                answer = _Failure(share.busy, "".join(traceback.format_exception_only(error)), traceback.format_exc())
            pipe.send(answer)


class WorkerPool:
    """Processes that step environments. They start on first use and end with this process."""

    def __init__(self) -> None:
        self.pid, self.closed = os.getpid(), False
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []
        self._known: list[bytes] = []  # the pickled distribution that each worker has
        self._served = False
        self._lock = threading.Lock()
        self._vectors: weakref.WeakSet[VectorEnv[Any, Any, Any]] = weakref.WeakSet()
        self.forgotten: list[int] = []  # vectors that were garbage-collected without being closed
        # Runs before multiprocessing's handler, which would wait for the workers forever.
        atexit.register(self.close)

    @property
    def alive(self) -> bool:
        """Whether the pool is usable: open, all workers alive, and started by this process."""
        return not self.closed and self.pid == os.getpid() and all(each.is_alive() for each in self._processes)

    def grow(self, workers: int) -> None:
        """Starts workers up to a number."""
        context = multiprocessing.get_context("spawn")
        while len(self._processes) < workers:
            pipe, theirs = context.Pipe()
            name = f"thetaprime-worker-{len(self._processes)}"
            process = context.Process(target=_work, args=(theirs, len(self._processes)), name=name)
            process.start()
            theirs.close()  # or the parent would never see the pipe close
            self._processes.append(process)
            self._pipes.append(pipe)
            self._known.append(b"")

    def enroll(self, vector: VectorEnv[Any, Any, Any]) -> None:
        """Registers a vector environment, to close it with the pool, and closes vectors that were garbage-collected."""
        self._vectors.add(vector)
        while self.forgotten:
            gone = self.forgotten.pop()
            self.ask(gone, "close", [()] * len(self._pipes), lambda worker, busy: "closing environments")

    def introduce(self, distribution: TaskDistribution, workers: int) -> None:
        """Sends a distribution to the workers that have another one.

        Raises:
            TypeError: it cannot be pickled.
        """
        try:
            pickled = pickle.dumps(distribution)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise TypeError(
                f"{type(distribution).__name__} cannot be sent to worker processes: {error}. Task distributions are "
                "pickled: define the class at the top level of a module, without lambdas or open resources; or set "
                "THETAPRIME_TRAINING_WORKERS=1 to use one process"
            ) from error
        arguments = [None if known == pickled else (pickled,) for known in self._known[:workers]]
        self._known[:workers] = [b""] * workers  # until every worker has confirmed
        self.ask(0, "distribution", arguments, lambda worker, busy: f"receiving {type(distribution).__name__}")
        self._known[:workers] = [pickled] * workers

    def ask(
        self,
        vector: int,
        verb: str,
        arguments: Sequence[tuple[Any, ...] | None],
        doing: Callable[[int, int | None], str],
    ) -> list[Any]:
        """Sends each of the first workers a message and waits for their answers.

        Args:
            vector: number of the vector whose environments act.
            verb: name of the method to call on each worker's share.
            arguments: of the call, for each worker; None skips the worker.
            doing: (worker, index in its share or None) -> what it does, for an error's message.

        Raises:
            WorkerError: an environment raised, or a worker died, and with it the pool.
        """
        asked = [worker for worker, each in enumerate(arguments) if each is not None]
        answers: list[Any] = []
        with self._lock:
            try:
                for worker in asked:
                    self._pipes[worker].send((vector, verb, arguments[worker]))
                for worker in asked:
                    answers.append(self._pipes[worker].recv())
            except (EOFError, ConnectionError) as error:
                self._processes[worker].join(_EXIT_SECONDS)
                died = f"a worker process died (exit status {self._processes[worker].exitcode})"
                where = doing(worker, None)  # read before close() frees the memory
                self.close(at_once=True)
                hint = "" if self._served else ': does the script lack an if __name__ == "__main__"? Workers import it'
                raise WorkerError(f"{died} while {where}{hint}") from error
            except BaseException:  # after Ctrl-C, late answers would be taken for answers to the next message
                self.close(at_once=True)
                raise
        self._served = True
        for worker, answer in zip(asked, answers, strict=True):
            if isinstance(answer, _Failure):
                raise WorkerError(
                    f"{answer.summary.strip()}, while {doing(worker, answer.busy)}\n\nin a worker process:\n"
                    f"{answer.traceback}"
                )
        return answers

    def close(self, *, at_once: bool = False) -> None:
        """Ends the workers and closes their environments.

        Args:
            at_once: terminate the workers instead of letting them finish a step.
        """
        if self.closed or self.pid != os.getpid():
            return
        self.closed = True
        atexit.unregister(self.close)
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            if at_once:
                process.terminate()
        for process in self._processes:
            process.join(_EXIT_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
        for vector in list(self._vectors):
            vector.close()


_pool: WorkerPool | None = None


def worker_pool(workers: int) -> WorkerPool:
    """The pool of this process, with at least so many workers. A pool with a dead worker is replaced."""
    global _pool
    if _pool is None or not _pool.alive:
        if _pool is not None:
            _pool.close(at_once=True)
        _pool = WorkerPool()
    _pool.grow(workers)
    return _pool
