"""Worker processes that step environments.

One message makes a worker step all of its environments. Observations, rewards, flags and actions are in shared memory.
Processes start slowly, so one pool serves all vector environments that sampling makes. Workers are spawned, not forked:
a fork would leave the threads of torch and gRPC in an undefined state. A worker exits when its pipe closes, so no
worker outlives its parent, even one that is killed.
"""

import atexit
import contextlib
import dataclasses
import faulthandler
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from gymnasium.vector import VectorEnv

from thetaprime.training.resources import available_memory
from thetaprime.training.tasks.environment_share import Share, Slots, resident_bytes
from thetaprime.training.tasks.limits import MEMORY_VARIABLE, positive_setting
from thetaprime.training.tasks.protocol import TaskDistribution

_EXIT_SECONDS: Final = 5.0
_GOES_ON: Final = 1.5  # times the growth at which a worker begins no more episodes, it goes on with those begun
_TRACEBACK_SECONDS: Final = 1.0  # for a worker that hangs to write where
_OUTPUT_BYTES: Final = 1_000_000  # of a worker's output, kept to show the end of it
_OUTPUT_SHOWN: Final = 2000
_TRACEBACK_SIGNAL: Final = getattr(signal, "SIGUSR1", None)


class WorkerError(RuntimeError):
    """An environment raised an exception in a worker process, or the process died."""


@dataclasses.dataclass(frozen=True)
class _Failure:
    """A worker's answer after an exception in an environment."""

    busy: int | None
    summary: str
    traceback: str


@dataclasses.dataclass(frozen=True)
class Death:
    """What takes the place of a worker's answer if the worker died or hung. The worker has been replaced.

    Attributes:
        reason: its exit status, or the seconds without an answer.
        output: what it wrote last.
    """

    reason: str
    output: str


@dataclasses.dataclass(frozen=True)
class Closed:
    """A worker's answer to ``close``: the bytes by which its memory has grown since its first distribution."""

    growth: int


def _work(pipe: Connection, worker: int, output: str, memory: int | None) -> None:
    """Runs a worker: answers each message until the pipe closes.

    Args:
        pipe: of the messages.
        worker: number of the worker.
        output: file for what environments print, which would disturb the output of the program.
        memory: bytes by which the process may grow.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent handles it
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(descriptor, stream.fileno())
    faulthandler.enable()
    if _TRACEBACK_SIGNAL is not None:
        faulthandler.register(_TRACEBACK_SIGNAL)
    at_start = 0
    limits: tuple[float, float] | None = None
    distribution: Any = None
    shares: dict[int, Share] = {}
    slots = Slots()
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            vector, verb, arguments = pipe.recv()
            share = shares.get(vector) or Share(worker, slots, limits)
            try:
                answer: Any = None
                if verb == "distribution":
                    pickled, sys.path[:] = arguments
                    distribution = pickle.loads(pickled)  # noqa: S301  # from our own parent
                    if not at_start:  # with what the distribution's module imports
                        at_start = resident_bytes()
                        if memory is not None and at_start:
                            limits = at_start + memory, at_start + _GOES_ON * memory
                elif verb == "make":
                    shares[vector] = share
                    answer = share.make(distribution, *arguments)
                elif verb == "close":
                    shares.pop(vector, share).close()
                    sys.stdout.flush()
                    if os.fstat(descriptor).st_size > _OUTPUT_BYTES:
                        os.truncate(output, 0)
                    answer = Closed(resident_bytes() - at_start)
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
        self._folder = tempfile.TemporaryDirectory(prefix="thetaprime-workers-", ignore_cleanup_errors=True)
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
        before = len(self._processes)
        for worker in range(before, workers):
            self._processes.append(None)
            self._pipes.append(None)  # type: ignore[arg-type]  # until the next line
            self._known.append(b"")
            self._start(worker, memory_of_worker(workers))

    def _start(self, worker: int, memory: int | None) -> None:
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        output = self._output(worker)
        output.write_bytes(b"")
        arguments = (theirs, worker, str(output), memory)
        process = context.Process(target=_work, args=arguments, name=f"thetaprime-worker-{worker}")
        process.start()
        theirs.close()  # or the parent would never see the pipe close
        self._processes[worker], self._pipes[worker], self._known[worker] = process, pipe, b""

    def _output(self, worker: int) -> Path:
        return Path(self._folder.name) / f"{worker}.log"

    def replace(self, worker: int) -> None:
        """Ends a worker, with its environments, and starts another one in its place."""
        process = self._processes[worker]
        self._pipes[worker].close()
        process.kill()
        process.join()
        process.close()
        self._start(worker, memory_of_worker(len(self._processes)))

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
        # The distribution's module may lie in a folder that was added after the worker began.
        arguments = [None if known == pickled else (pickled, list(sys.path)) for known in self._known[:workers]]
        self._known[:workers] = [b""] * workers  # until every worker has confirmed
        self.ask(0, "distribution", arguments, lambda worker, busy: f"receiving {type(distribution).__name__}")
        self._known[:workers] = [pickled] * workers

    def ask(
        self,
        vector: int,
        verb: str,
        arguments: Sequence[tuple[Any, ...] | None],
        doing: Callable[[int, int | None], str],
        *,
        seconds: float | None = None,
        progress: Callable[[int], int] = lambda worker: 0,
        tolerant: bool = False,
    ) -> list[Any]:
        """Sends each of the first workers a message and waits for their answers.

        Args:
            vector: number of the vector whose environments act.
            verb: name of the method to call on each worker's share.
            arguments: of the call, for each worker; None skips the worker.
            doing: (worker, index in its share or None) -> what it does, for an error's message.
            seconds: without an answer and without progress, after which a worker hangs and is killed; None waits.
            progress: a number of a worker that changes while it works.
            tolerant: replace a worker that died or hung, and return a `Death` as its answer.

        Raises:
            WorkerError: an environment raised; or a worker died or hung, and the pool closed with it.
        """
        asked = [worker for worker, each in enumerate(arguments) if each is not None]
        with self._lock:
            try:
                for worker in asked:
                    with contextlib.suppress(ConnectionError):  # it died: its answer says so
                        self._pipes[worker].send((vector, verb, arguments[worker]))
                answers = [self._answer(worker, seconds, progress) for worker in asked]
                deaths = [worker for worker, answer in zip(asked, answers, strict=True) if isinstance(answer, Death)]
                if deaths and not tolerant:
                    worker, death = deaths[0], answers[asked.index(deaths[0])]
                    where = doing(worker, None)  # read before close() frees the memory
                    self.close(at_once=True)
                    hint = (
                        "" if self._served else ': does the script lack an if __name__ == "__main__"? Workers import it'
                    )
                    raise WorkerError(f"{death.reason} while {where}{hint}{_shown(death.output)}")
                for worker in deaths:
                    self.replace(worker)
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

    def _answer(self, worker: int, seconds: float | None, progress: Callable[[int], int]) -> Any:
        """A worker's answer, or a `Death`."""
        pipe, process, seen = self._pipes[worker], self._processes[worker], None
        try:
            while not pipe.poll(seconds):
                before, seen = seen, progress(worker)
                if before == seen:
                    return Death(f"a worker process did not answer for {seconds:g} seconds", self._hung(worker))
            return pipe.recv()
        except (EOFError, ConnectionError):
            process.join(_EXIT_SECONDS)
            return Death(f"a worker process died (exit status {process.exitcode})", self._tail(worker))

    def _hung(self, worker: int) -> str:
        """Kills a worker that hangs; returns its output, which ends with where it hung."""
        process = self._processes[worker]
        if _TRACEBACK_SIGNAL is not None:
            before = self._output(worker).stat().st_size
            os.kill(process.pid, _TRACEBACK_SIGNAL)
            deadline = time.monotonic() + _TRACEBACK_SECONDS
            while self._output(worker).stat().st_size == before and time.monotonic() < deadline:
                process.join(0.01)
            process.join(0.05)  # the rest of the traceback
        process.kill()
        return self._tail(worker)

    def _tail(self, worker: int) -> str:
        return self._output(worker).read_bytes()[-_OUTPUT_SHOWN:].decode(errors="replace")

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
        self._folder.cleanup()
        for vector in list(self._vectors):
            vector.close()


def memory_of_worker(workers: int) -> int | None:
    """Bytes by which each of the workers may grow: by default, together, half of the available memory."""
    megabytes = positive_setting(MEMORY_VARIABLE, None)
    if megabytes is not None:
        return int(megabytes * 1e6)
    available = available_memory()
    return None if available is None else available // 2 // workers


def _shown(output: str) -> str:
    return f"\n\nthe worker process wrote last:\n{output}" if output.strip() else ""


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
