"""The environments of a vector that one process steps, and the memory that the processes share."""

import dataclasses
import math
import os
import sys
import traceback
from collections.abc import Sequence
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, Final

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete

from thetaprime.training.tasks.protocol import Task, TaskDistribution, can_set_task

Array = npt.NDArray[Any]
_ALIGNMENT: Final = 64  # bytes: a cache line


@dataclasses.dataclass(frozen=True)
class Loss:
    """An episode that ended without an outcome.

    Attributes:
        row: of its environment in the vector.
        verb: ``resetting`` or ``stepping``.
        summary: the exception in one line, or the end of the process.
        detail: the traceback, and what the process wrote last.
        culprit: whether the environment caused the loss; others share a process that died or ran out of memory.
    """

    row: int
    verb: str
    summary: str
    detail: str = ""
    culprit: bool = True


def resident_bytes() -> int:
    """The memory of this process; 0 where the system does not report it."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


@dataclasses.dataclass(frozen=True)
class Spaces:
    """The spaces of one environment. All environments of a vector have equal spaces."""

    observation: Box
    action: Box | Discrete

    @classmethod
    def of(cls, env: gymnasium.Env[Any, Any]) -> "Spaces":
        """The spaces of an environment; TypeError for other than a Box, and a Box or Discrete."""
        observation, action = env.observation_space, env.action_space
        if not isinstance(observation, Box) or not isinstance(action, Box | Discrete):
            raise TypeError(f"observations {observation}, actions {action}; expected a Box, and a Box or Discrete")
        return cls(observation, action)


class Arrays:
    """The data of B environments, as views of one buffer. Without a buffer, only the `size` in bytes is computed."""

    def __init__(self, buffer: Any, spaces: Spaces, environments: int, workers: int) -> None:
        self._buffer, self.size, B = buffer, 0, environments
        self._action_shape = (B, *(spaces.action.shape or ()))
        self.observations = self._view((B, *spaces.observation.shape), spaces.observation.dtype)
        self.rewards = self._view((B,), np.float64)
        self.terminated = self._view((B,), np.bool_)
        self.truncated = self._view((B,), np.bool_)
        self.parked = self._view((B,), np.bool_)
        self.current = self._view((workers,), np.int64)  # the environment that each worker is stepping
        self._actions_at = self.size
        self.size += 8 * math.prod(self._action_shape)  # no action type has wider numbers
        self._actions: Array = np.empty(0)

    def actions(self, dtype: str) -> Array:
        """[B, ...] actions of the caller's type, as a single environment would receive them."""
        if self._actions.dtype.str != dtype or not self._actions.size:
            self._actions = np.ndarray(self._action_shape, dtype, self._buffer, self._actions_at)
        return self._actions

    def _view(self, shape: tuple[int, ...], dtype: Any) -> Array:
        start = self.size
        self.size += -(-math.prod(shape) * np.dtype(dtype).itemsize // _ALIGNMENT) * _ALIGNMENT
        return np.empty(0) if self._buffer is None else np.ndarray(shape, dtype, self._buffer, start)


class Slots:
    """The environments of one process that wait for another task, of the last distribution that has `set_task`."""

    def __init__(self) -> None:
        self._distribution: TaskDistribution | None = None
        self._waiting: list[gymnasium.Env[Any, Any]] = []

    def take(self, distribution: TaskDistribution, task: Task) -> gymnasium.Env[Any, Any]:
        """An environment of the task: one that waits and is told the task, or a new one."""
        if not can_set_task(distribution):
            return distribution.make(task)
        if distribution is not self._distribution:
            self.clear()
            self._distribution = distribution
        if not self._waiting:
            return distribution.make(task)
        env = self._waiting.pop()
        distribution.set_task(env, task)
        return env

    def give_back(self, distribution: TaskDistribution, env: gymnasium.Env[Any, Any]) -> None:
        """Keeps an environment for another task, or closes it where it cannot be told one."""
        if distribution is self._distribution:
            self._waiting.append(env)
        else:
            env.close()

    def clear(self) -> None:
        """Closes the environments that wait."""
        while self._waiting:
            self._waiting.pop().close()


class Share:
    """The environments of a vector that one process steps: a worker's share, or all of them in this process.

    Args:
        worker: number of the process.
        slots: of the process.
        memory_limits: bytes that the process may have when an episode begins, and when it goes on; None for no limits.
    """

    def __init__(self, worker: int, slots: Slots, memory_limits: tuple[float, float] | None = None) -> None:
        self.busy: int | None = None  # index in the share of the environment that is stepping
        self.failed = False  # whether an environment raised: then none of them is kept
        self._worker, self._slots, self._memory_limits = worker, slots, memory_limits
        self._tolerant = False
        self._losses: list[Loss] = []
        self._envs: list[gymnasium.Env[Any, Any]] = []
        self._spaces: Spaces | None = None
        self._arrays: Arrays | None = None
        self._memory: SharedMemory | None = None

    def make(self, distribution: TaskDistribution, tasks: Sequence[Task], rows: range) -> Spaces:
        """Makes the environments of the given rows of the vector, or tells those that wait their tasks."""
        self._rows, self._over, self._distribution = rows, np.zeros(len(tasks), np.bool_), distribution
        for self.busy, task in enumerate(tasks):
            self._envs.append(self._slots.take(distribution, task))
            spaces = Spaces.of(self._envs[-1])
            if self._spaces is not None and spaces != self._spaces:
                raise ValueError(f"its spaces are {spaces}; those of task {tasks[0]} are {self._spaces}")
            self._spaces = spaces
        return spaces

    def attach(self, memory: str | bytearray, spaces: Spaces, environments: int, workers: int) -> None:
        """Attaches the vector's memory: shared memory by its name, or a bytearray."""
        if isinstance(memory, str):
            # Only the parent frees the memory. Before Python 3.13 there is no option for it; but workers share the
            # parent's resource tracker, which counts a name once.
            untracked: dict[str, Any] = {"track": False} if sys.version_info >= (3, 13) else {}
            self._memory = SharedMemory(memory, **untracked)
        self._arrays = Arrays(self._memory.buf if self._memory else memory, spaces, environments, workers)

    def reset(self, seeds: Sequence[int | None], options: dict[str, Any] | None, tolerant: bool) -> list[Loss]:
        """Starts an episode in each of the environments.

        Args:
            seeds: of each.
            options: passed to each.
            tolerant: until the next reset, an environment that raises is parked and returned as a loss, and memory
                beyond the limit parks environments. Otherwise the exception is raised.

        Returns:
            The losses.
        """
        self._tolerant = tolerant
        arrays, share = self._begin(), slice(self._rows.start, None, self._rows.step)
        self._over[:] = arrays.terminated[share] = arrays.truncated[share] = False
        arrays.rewards[share] = 0.0
        for k, seed in enumerate(seeds):
            if k and tolerant and self._short_of_memory(begins=True):
                self._park(arrays, range(k, len(seeds)), "resetting")
                break
            self._turn(arrays, k)
            try:
                observation, _ = self._envs[k].reset(seed=seed, options=options)
                self._observe(arrays, k, observation)
            except Exception as error:
                self._lose(arrays, k, "resetting", error)
        return self._reported()

    def step(self, dtype: str) -> list[Loss]:
        """Steps the environments that are not parked, with actions of a type; resets those whose episode ended.

        Returns:
            The losses.
        """
        arrays, share = self._begin(), slice(self._rows.start, None, self._rows.step)
        # A copy, because an environment may keep its action, and the next step overwrites the memory.
        actions = arrays.actions(dtype)[share].copy()
        running = np.flatnonzero(~arrays.parked[share])
        over = self._over.tolist()
        outcomes: list[tuple[Any, Any, Any]] = []
        for k in running.tolist():
            self._turn(arrays, k)
            outcome: Sequence[Any] = (0.0, False, False)
            try:
                if over[k]:
                    observation, _ = self._envs[k].reset()
                else:
                    observation, *outcome, _ = self._envs[k].step(actions[k])
                self._observe(arrays, k, observation)
            except Exception as error:
                self._lose(arrays, k, "stepping", error)
                outcome = (0.0, False, False)
            outcomes.append((outcome[0], outcome[1], outcome[2]))
        rows = self._rows.start + running * self._rows.step
        arrays.rewards[rows], arrays.terminated[rows], arrays.truncated[rows] = zip(*outcomes, strict=True)
        self._over[running] = arrays.terminated[rows] | arrays.truncated[rows]
        if self._tolerant and self._short_of_memory(begins=False):
            going = [k for k in running.tolist() if not self._over[k] and not arrays.parked[self._rows[k]]]
            self._park(arrays, going[(len(going) + 1) // 2 :], "stepping")
        return self._reported()

    def close(self) -> None:
        """Detaches the memory, and closes the environments that cannot be told another task."""
        self._arrays = None  # shared memory cannot be closed while views of it exist
        if self._memory is not None:
            self._memory.close()
        for k, env in enumerate(self._envs):
            self.busy = k
            if self.failed:
                env.close()
            else:
                self._slots.give_back(self._distribution, env)

    def _lose(self, arrays: Arrays, k: int, verb: str, error: Exception) -> None:
        """Parks an environment that raised; raises its exception unless losses are tolerated."""
        self.failed = True
        if not self._tolerant:
            raise error
        summary = "".join(traceback.format_exception_only(error)).strip()
        self._losses.append(Loss(self._rows[k], verb, summary, "".join(traceback.format_exception(error))))
        arrays.parked[self._rows[k]] = True

    def _short_of_memory(self, *, begins: bool) -> bool:
        return self._memory_limits is not None and resident_bytes() > self._memory_limits[0 if begins else 1]

    def _park(self, arrays: Arrays, environments: Sequence[int], verb: str) -> None:
        """Ends episodes that are sampled later, when the process has been started again."""
        for k in environments:
            self._losses.append(Loss(self._rows[k], verb, "the memory of its process ran short", culprit=False))
            arrays.parked[self._rows[k]] = True

    def _reported(self) -> list[Loss]:
        losses, self._losses = self._losses, []
        return losses

    def _begin(self) -> Arrays:
        if self._arrays is None:
            raise RuntimeError("the environments are closed")
        return self._arrays

    def _turn(self, arrays: Arrays, k: int) -> None:
        self.busy = k
        arrays.current[self._worker] = self._rows[k]

    def _observe(self, arrays: Arrays, k: int, observation: Any) -> None:
        shape = arrays.observations.shape[1:]
        if np.shape(observation) != shape:
            raise ValueError(f"an observation of shape {np.shape(observation)}; its space says {shape}")
        arrays.observations[self._rows[k]] = observation
