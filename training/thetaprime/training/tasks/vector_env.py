"""A vector environment that steps single environments in worker processes."""

import contextlib
import itertools
import os
import secrets
import sys
import warnings
from collections.abc import Sequence
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from thetaprime.training.resources import available_cores
from thetaprime.training.tasks.environment_share import Array, Arrays, Loss, Share, Slots
from thetaprime.training.tasks.limits import step_seconds
from thetaprime.training.tasks.protocol import Task, TaskDistribution
from thetaprime.training.tasks.worker_pool import Closed, Death, WorkerPool, memory_of_worker, worker_pool

WORKERS_VARIABLE: Final = "THETAPRIME_TRAINING_WORKERS"
"""Environment variable: the number of worker processes that share the environments; 1 is this process alone."""

_FEWEST: Final = 32  # environments for each worker: below, messages cost more than the workers gain
_numbers = itertools.count(1)


def worker_count(environments: int, asked: int | None) -> int:
    """The number of worker processes for so many environments: as `make_vector` documents `workers`."""
    if asked is None and (text := os.environ.get(WORKERS_VARIABLE)):
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"{WORKERS_VARIABLE}={text!r}; expected the number of worker processes, 1 or more")
        asked = int(text)
    if asked is not None:
        return max(1, min(asked, environments))
    return max(1, min(available_cores(), environments // _FEWEST))


class WorkersVectorEnv(VectorEnv[Array, Array, Array]):
    """Single environments in worker processes, with next-step autoreset.

    Where the distribution has `set_task`, a process keeps its environments for the next vector, which tells them its
    tasks.

    Its steps equal those of Gymnasium's ``SyncVectorEnv`` to the bit: environment i is seeded with seed + i. It returns
    no infos.

    Args:
        distribution: makes the environments. Worker processes receive it pickled.
        tasks: one for each environment.
        workers: W processes; 1 is this process.

    Attributes:
        workers: W.

    Raises:
        TypeError: the distribution cannot be pickled; or its spaces are not a Box, and a Box or Discrete.
        WorkerError: an environment raised an exception in a worker, or a worker died. With one worker, the
            environment's exception is raised unchanged.
    """

    def __init__(self, distribution: TaskDistribution, tasks: Sequence[Task], *, workers: int) -> None:
        B, self._tasks, self._number = len(tasks), list(tasks), next(_numbers)
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}
        self.num_envs, self.workers = B, workers
        # Every W-th: neighbors belong to one task, whose episodes may all be long.
        self._rows = [range(worker, B, workers) for worker in range(workers)]
        self._memory: SharedMemory | None = None
        self._arrays: Arrays | None = None
        self._pool: WorkerPool | _ThisProcess = _ThisProcess() if workers == 1 else worker_pool(workers)
        self._name, self._seconds = type(distribution).__name__, step_seconds()
        self._tolerant, self.losses = False, list[Loss]()
        self._episodes = 0
        self._pool.introduce(distribution, workers)
        self._pool.enroll(self)
        try:
            spaces = self._ask("make", [(self._tasks[rows.start :: rows.step], rows) for rows in self._rows])
            for other, rows in zip(spaces, self._rows, strict=True):
                if other != spaces[0]:
                    raise ValueError(f"task {tasks[rows[0]]}: spaces {other}; those of task {tasks[0]} are {spaces[0]}")
            size = Arrays(None, spaces[0], B, workers).size
            memory: str | bytearray = bytearray(size)
            if workers > 1:
                name = f"thetaprime-{os.getpid():x}-{secrets.token_hex(4)}"  # short enough for macOS
                self._memory = SharedMemory(name, create=True, size=size)
                memory = self._memory.name
            self._ask("attach", [(memory, spaces[0], B, workers)] * workers)
            self._arrays = Arrays(self._memory.buf if self._memory else memory, spaces[0], B, workers)
        except BaseException:
            self.close()
            raise
        self._arrays.current[:] = -1
        self._arrays.parked[:] = False
        self.single_observation_space, self.single_action_space = spaces[0].observation, spaces[0].action
        self.observation_space = batch_space(self.single_observation_space, B)
        self.action_space = batch_space(self.single_action_space, B)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Starts an episode in every environment, also in parked ones.

        Args:
            seed: of the first environment (the i-th gets seed + i); or one seed for each.
            options: passed to every environment.
        """
        arrays = self._open()
        if options is not None and "reset_mask" in options:
            raise ValueError("options: reset_mask applies to environments without autoreset; these have it")
        if seed is None or isinstance(seed, int):
            seeds = [None if seed is None else seed + i for i in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed: {len(seeds)} seeds for {self.num_envs} environments")
        arrays.parked[:] = False
        self._episodes += self.num_envs
        self._ask("reset", [(seeds[rows.start :: rows.step], options, self._tolerant) for rows in self._rows])
        return arrays.observations.copy(), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Steps every environment that is not parked; resets it instead if its episode has ended."""
        arrays, actions = self._open(), np.asarray(actions)
        taken = arrays.actions(actions.dtype.str)
        if actions.shape != taken.shape:
            raise ValueError(f"actions: shape {actions.shape}; expected {taken.shape}")
        taken[...] = actions
        parked = arrays.parked
        self._ask(
            "step", [None if parked[rows.start :: rows.step].all() else (actions.dtype.str,) for rows in self._rows]
        )
        return arrays.observations.copy(), arrays.rewards.copy(), arrays.terminated.copy(), arrays.truncated.copy(), {}

    def tolerate(self) -> list[Loss]:
        """From the next reset, parks environments that raise, or whose process dies, hangs or runs short of memory.

        Returns:
            The list of the episodes that are lost, to which steps append. An environment of a lost episode must not be
            reset: close the vector.
        """
        self._tolerant = True
        return self.losses

    def park(self, environments: npt.NDArray[np.bool_]) -> None:
        """Stops stepping environments until the next reset: their observation stays, and their reward is 0.

        Args:
            environments: [B], true for those to stop.
        """
        arrays = self._open()
        arrays.parked |= environments
        arrays.rewards[environments] = 0.0
        arrays.terminated[environments] = arrays.truncated[environments] = False

    def close_extras(self, **kwargs: Any) -> None:
        """Closes the environments. The workers keep running for the next ones."""
        try:
            if not self._pool.closed:
                closed = self._ask("close", [()] * len(self._rows))
                self._recycle(closed)
        finally:
            self._release()

    def __del__(self) -> None:
        # Not close(): the garbage collector may run between a message to a worker and its answer.
        if not self.closed and hasattr(self, "_pool"):
            self._pool.forgotten.append(self._number)
            self._release()

    def _release(self) -> None:
        self._arrays = None  # shared memory cannot be closed while views of it exist
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.close()
            memory.unlink()

    def _open(self) -> Arrays:
        if self._arrays is None:
            raise RuntimeError("the environments are closed")
        return self._arrays

    def _recycle(self, closed: list[Any]) -> None:
        """Starts workers again whose memory has grown by half of what they may have."""
        if not isinstance(self._pool, WorkerPool):
            return
        allowed = memory_of_worker(self.workers)
        for worker, answer in enumerate(closed):
            if not isinstance(answer, Closed) or allowed is None or answer.growth <= allowed // 2:
                continue
            episodes = max(1, self._episodes // self.workers)
            warnings.warn(
                f"{self._name}: a worker process grew by {answer.growth / 1e6:,.0f} MB, last in about {episodes} "
                "episodes, and is started again: does each episode keep memory?",
                RuntimeWarning,
                stacklevel=4,
            )
            self._pool.replace(worker)

    def _lost(self, worker: int, verb: str, death: Death) -> list[Loss]:
        """The episodes that end with a worker."""
        arrays = self._open()
        culprit, going = int(arrays.current[worker]), [row for row in self._rows[worker] if not arrays.parked[row]]
        arrays.parked[going] = True
        arrays.rewards[going] = 0.0
        arrays.terminated[going] = arrays.truncated[going] = False
        return [Loss(row, _DOING[verb], death.reason, death.output, culprit=row == culprit) for row in going]

    def _ask(self, verb: str, arguments: Sequence[tuple[Any, ...] | None]) -> list[Any]:
        def doing(worker: int, busy: int | None) -> str:
            if busy is not None:
                row = self._rows[worker][busy]
            else:
                row = -1 if self._arrays is None else int(self._arrays.current[worker])
            which = "its environments" if row < 0 else f"environment {row}, task {self._tasks[row]}"
            return f"{_DOING[verb]} {which}"

        arrays, tolerant = self._arrays, self._tolerant and verb in {"reset", "step", "close"}
        if verb in {"reset", "step"} and arrays is not None:
            arrays.current[:] = -1
        answers = self._pool.ask(
            self._number,
            verb,
            arguments,
            doing,
            seconds=self._seconds if verb in {"reset", "step"} else None,
            progress=lambda worker: -1 if arrays is None else int(arrays.current[worker]),
            tolerant=tolerant,
        )
        if tolerant and verb != "close":
            asked = [worker for worker, each in enumerate(arguments) if each is not None]
            for worker, answer in zip(asked, answers, strict=True):
                self.losses += self._lost(worker, verb, answer) if isinstance(answer, Death) else answer
        return answers


_DOING: Final = {
    "make": "making",
    "attach": "attaching memory to",
    "reset": "resetting",
    "step": "stepping",
    "close": "closing",
}


_SLOTS: Final = Slots()  # of this process


class _ThisProcess:
    """A pool without processes. An environment's exception is raised unchanged, with a note that names its task."""

    def __init__(self) -> None:
        self.closed = False
        self.forgotten: list[int] = []
        self._share = Share(0, _SLOTS)

    def introduce(self, distribution: TaskDistribution, workers: int) -> None:
        self._distribution = distribution

    def enroll(self, vector: VectorEnv[Any, Any, Any]) -> None:
        pass

    def ask(
        self, vector: int, verb: str, arguments: Sequence[tuple[Any, ...] | None], doing: Any, **limits: Any
    ) -> list[Any]:
        if arguments[0] is None:
            return []
        first = (self._distribution,) if verb == "make" else ()
        try:
            with contextlib.redirect_stdout(sys.stderr):  # what environments print is not the program's output
                return [getattr(self._share, verb)(*first, *arguments[0])]
        except Exception as error:
            self._share.failed = True
            error.add_note(f"while {doing(0, self._share.busy)}")
            raise
