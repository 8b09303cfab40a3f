"""Many bodies as one `VectorEnv`, stepped on native threads."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from thetaprime.training.resources import available_cores
from thetaprime.training.tasks.bodies.family import Floats, MujocoTasks
from thetaprime.training.tasks.bodies.simulation import Bodies
from thetaprime.training.tasks.protocol import Task


class BodiesVector(VectorEnv[Floats, npt.NDArray[np.float32], npt.NDArray[Any]]):
    """One body for each task, with next-step autoreset. Its steps equal those of single environments to the bit.

    Body i is seeded with seed + i.

    Args:
        family: makes the bodies.
        tasks: B.
        threads: that share the bodies; None for the available cores.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(self, family: MujocoTasks, tasks: Sequence[Task], threads: int | None = None) -> None:
        self.num_envs, self._horizon = len(tasks), family.horizon
        low, high = family.action_range
        (size,) = family.environment.observation_shape
        self.single_observation_space = Box(-np.inf, np.inf, (size,), np.float64)
        self.single_action_space = Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._bodies = Bodies(family, tasks, threads=threads or min(self.num_envs, available_cores()))
        self._generators: list[np.random.Generator] = []
        self._elapsed = np.zeros(self.num_envs, np.int64)
        self._ended = np.zeros(self.num_envs, np.bool_)
        self._parked = np.zeros(self.num_envs, np.bool_)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Returns every body to its start, also parked ones."""
        if seed is not None or not self._generators:
            count = range(self.num_envs)
            seeds = [None] * self.num_envs if seed is None else seed
            each = [seeds + i for i in count] if isinstance(seeds, int) else list(seeds)
            self._generators = [seeding.np_random(one)[0] for one in each]
        self._parked[:] = False
        self._restart(np.arange(self.num_envs))
        return self._bodies.observations.copy(), {}

    def park(self, environments: npt.NDArray[np.bool_]) -> None:
        """Stops simulating bodies until the next reset.

        Args:
            environments: [B], true for the bodies to stop.
        """
        self._parked |= environments

    def step(
        self, actions: npt.NDArray[np.float32]
    ) -> tuple[Floats, Floats, npt.NDArray[np.bool_], npt.NDArray[np.bool_], dict[str, Any]]:
        """Moves every body; returns it to its start instead if its episode has ended."""
        again = np.flatnonzero(self._ended & ~self._parked)
        moving = np.flatnonzero(~self._ended & ~self._parked)
        rewards, terminated = np.zeros(self.num_envs), np.zeros(self.num_envs, np.bool_)
        if len(moving):
            rewards[moving], terminated[moving] = self._bodies.step(moving, np.asarray(actions)[moving])
            self._elapsed[moving] += 1
        if len(again):
            self._restart(again)
        truncated = self._elapsed >= self._horizon
        truncated[self._parked] = False
        self._ended = terminated | truncated
        return self._bodies.observations.copy(), rewards, terminated, truncated, {}

    def _restart(self, bodies: npt.NDArray[np.int64]) -> None:
        self._bodies.reset(bodies.tolist(), [self._generators[index] for index in bodies.tolist()])
        self._elapsed[bodies] = 0
        self._ended[bodies] = False
