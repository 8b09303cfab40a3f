"""Notices that the memory of a policy was not reset where the environment says so."""

import warnings
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from thetaprime.client._errors import InvalidInputError
from thetaprime.client._policy.policy_state import read_flags

NEW_TASK: Final = "new_task"
"""Key of a step's `info`: whether the next observation is of another task."""


_SHOWN: Final = 8


class MemoryWarning(UserWarning):
    """The memory of a policy was probably not reset, or did not see the end of an episode."""


class ResetWatch:
    """Watches the lifetimes of B robots.

    Args:
        count: B.
        horizon: longest episode, in steps; 0 for no limit.
        every_episode: whether each episode is a lifetime.
        strict: whether a forgotten reset is an error; otherwise the first one is a warning.

    Attributes:
        any_due: whether a robot must be reset before it acts.
    """

    def __init__(self, count: int, horizon: int, *, every_episode: bool, strict: bool) -> None:
        self._count, self._horizon = count, horizon
        self._every_episode, self._strict = every_episode, strict
        # The step at which the episode of each robot began, and the first of these.
        self._clock, self._first = 0, 0
        self._began = np.zeros(count, np.int64)
        self._due = np.zeros(count, np.bool_)
        self.any_due = self._warned = False

    def observe(self, done: npt.NDArray[np.bool_], info: Mapping[str, Any] | None) -> None:
        """Takes the end of a step.

        Args:
            done: [B]: whether the episode ended.
            info: of the step, as the environment gives it.

        Raises:
            InvalidInputError: in strict mode, an episode has more steps than the horizon.
        """
        self._clock += 1
        if self._clock - self._first > self._horizon > 0:
            robot, longest = int(self._began.argmin()), self._clock - self._first
            self._begin(self._began == self._first)
            self._complain(
                f"robot {robot} has acted for {longest} steps without the end of an episode, and the longest episode "
                f"has {self._horizon}: give terminated and truncated to observe, or call reset(where=…) where a new "
                "lifetime begins",
                5,
            )
        if b"\1" in done.tobytes():  # ten times as fast as any()
            self._begin(done)
            if self._every_episode:
                self._due |= done
                self.any_due = True
        if info is not None and NEW_TASK in info:
            flags = read_flags(info[NEW_TASK], self._count, f"info[{NEW_TASK!r}]")
            # In the infos of a VectorEnv, the sub-environments that gave the key.
            given = info.get(f"_{NEW_TASK}")
            self._due |= flags if given is None else flags & np.asarray(given, np.bool_)
            self.any_due = bool(self._due.any())

    def observe_one(self, *, done: bool) -> None:
        """Takes the end of a step without `info`, where B is 1; the same as `observe`, in less time."""
        if done or self._clock - self._first >= self._horizon > 0:
            self.observe(np.full(1, done), None)
        else:
            self._clock += 1

    def _begin(self, rows: npt.NDArray[np.bool_]) -> None:
        self._began[rows] = self._clock
        self._first = int(self._began.min())

    def reset(self, rows: npt.NDArray[np.bool_]) -> None:
        """Notes that lifetimes begin, [B]."""
        self._begin(rows)
        self._due &= ~rows
        self.any_due = bool(self._due.any())

    def act(self) -> None:
        """Complains of robots that act on with the memory of another lifetime, if `any_due`.

        Raises:
            InvalidInputError: in strict mode, a reset is due.
        """
        robots = np.flatnonzero(self._due)[:_SHOWN].tolist()
        why = "an episode has ended, and each episode is a lifetime" if self._every_episode else "the task is another"
        self._complain(
            f"robots {robots} act on with the memory of another lifetime: their environment says that {why}; call "
            "reset(where=…) with these robots before the next action",
            6,
        )
        self._due[:] = False
        self.any_due = False

    def _complain(self, problem: str, level: int) -> None:
        # The level is that of the caller of `AdaptedPolicy`.
        if self._strict:
            raise InvalidInputError(problem)
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{problem}. This is said once; AdaptedPolicy(strict=True) makes it an error", MemoryWarning, level
            )
