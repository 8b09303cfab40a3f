"""B bodies of one family: their states, and their steps by `mujoco.rollout`."""

import functools
from collections.abc import Sequence

import mujoco
import numpy as np
import numpy.typing as npt
from mujoco import rollout

from thetaprime.training.tasks.bodies.family import BodyState, Floats, MujocoTasks
from thetaprime.training.tasks.protocol import Task


@functools.lru_cache(maxsize=4)
def _pool(threads: int) -> rollout.Rollout:
    # Environments are made for every batch of trajectories: the pool of threads is kept.
    return rollout.Rollout(nthread=threads)


class Bodies:
    """B bodies, one for each task.

    Args:
        family: makes their models.
        tasks: B.
        threads: that share the bodies; 0 for the calling thread. The result does not depend on them.

    Attributes:
        observations: [B, O], with noise where the family has some.
        states: [B, ...], MuJoCo's full physics states.
    """

    def __init__(self, family: MujocoTasks, tasks: Sequence[Task], *, threads: int) -> None:
        self._family, self._threads, B = family, threads, len(tasks)
        self._models = [family.model_of(task) for task in tasks]
        model = self._models[0]
        self._data = [mujoco.MjData(model) for _ in range(max(1, threads))]
        self._task = _columns(tasks)
        self._width = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS.value)
        self.states = np.zeros((B, self._width))
        self._sensors = np.zeros((B, model.nsensordata))
        # A full physics state begins with the time, qpos and qvel.
        self._position = slice(1, 1 + model.nq)
        self._velocity = slice(1 + model.nq, 1 + model.nq + model.nv)
        skip = family.frame_skip
        self._initial, self._trace = np.empty((B, self._width)), np.empty((B, skip, self._width))
        self._controls, self._sensed = np.empty((B, skip, model.nu)), np.empty((B, skip, model.nsensordata))
        self._latency = np.array([_checked_latency(family, task) for task in tasks])
        self._queue = np.zeros((B, int(self._latency.max(initial=0)) + 1, model.nu))
        self._noise = [np.asarray(family.observation_noise(task), np.float64) for task in tasks]
        self._noisy = np.array([bool(np.any(each)) for each in self._noise])
        self._generators: list[np.random.Generator] = [np.random.default_rng(0)] * B
        self.observations = np.zeros((B, 0))

    def state(self, rows: npt.NDArray[np.int64] | slice = slice(None)) -> BodyState:
        """The states of some bodies; valid until the next call of `step` or `reset`."""
        states = self.states[rows]
        return BodyState(
            states[:, self._position],
            states[:, self._velocity],
            self._sensors[rows],
            {name: values[rows] for name, values in self._task.items()},
        )

    def reset(self, rows: Sequence[int], generators: Sequence[np.random.Generator]) -> None:
        """Starts episodes of bodies; each body keeps its generator for its noise."""
        flags, data = mujoco.mjtState.mjSTATE_FULLPHYSICS.value, self._data[0]
        for row, generator in zip(rows, generators, strict=True):
            model = self._models[row]
            mujoco.mj_resetData(model, data)
            data.qpos[:], data.qvel[:] = self._family.initial(generator)
            mujoco.mj_getState(model, data, self.states[row], flags)
            if model.nsensordata:
                mujoco.mj_forward(model, data)
                self._sensors[row] = data.sensordata
            self._queue[row] = 0.0
            self._generators[row] = generator
        self._observe(np.asarray(rows))

    def step(self, rows: npt.NDArray[np.int64], actions: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Takes one environment step of n bodies.

        Args:
            rows: [n] their numbers, ascending.
            actions: [n, A], clipped to the actuators' ranges.

        Returns:
            The rewards [n], and whether each episode has terminated.

        Raises:
            ValueError: an action is NaN, which MuJoCo would ignore without an error.
        """
        n = len(rows)
        # Usually all bodies move: a slice avoids the copies that an index makes.
        chosen: npt.NDArray[np.int64] | slice = rows if n < len(self._models) else slice(None)
        low, high = self._family.action_range
        taken = np.clip(np.asarray(actions, np.float64), low, high)
        if np.isnan(taken).any():
            raise ValueError("action: NaN; expected numbers, which are clipped to the actuators' ranges")
        before = self.state(chosen)
        if isinstance(chosen, slice):
            before = BodyState(before.position.copy(), before.velocity.copy(), before.sensors.copy(), before.task)
        self._controls[:n] = self._delayed(rows, taken)[:, None]
        self._initial[:n] = self.states[chosen]
        trace, sensed = self._trace[:n], self._sensed[:n]
        _pool(self._threads).rollout(
            self._models if isinstance(chosen, slice) else [self._models[row] for row in rows.tolist()],
            self._data,
            self._initial[:n],
            self._controls[:n],
            skip_checks=True,
            nstep=self._family.frame_skip,
            state=trace,
            sensordata=sensed,
        )
        self.states[chosen], self._sensors[chosen] = trace[:, -1], sensed[:, -1]
        after = self.state(chosen)
        rewards = _checked(self._family, "reward", self._family.reward(before, taken, after), (n,))
        ended = _checked(self._family, "terminated", self._family.terminated(after), (n,)).astype(np.bool_)
        ended |= ~np.isfinite(self.states[chosen]).all(axis=1)
        self._observe(rows)
        return rewards, ended

    def _delayed(self, rows: npt.NDArray[np.int64], taken: Floats) -> Floats:
        """[n, A]: the controls that act now."""
        if self._queue.shape[1] == 1:
            return taken
        queue = np.roll(self._queue[rows], 1, axis=1)
        queue[:, 0] = taken
        self._queue[rows] = queue
        delayed: Floats = queue[np.arange(len(rows)), self._latency[rows]]
        return delayed

    def _observe(self, rows: npt.NDArray[np.int64]) -> None:
        everything = len(rows) == len(self._models)
        seen = np.asarray(self._family.observe(self.state(slice(None) if everything else rows)), np.float64)
        if seen.ndim != 2 or len(seen) != len(rows):
            raise ValueError(
                f"{type(self._family).__name__}.observe: shape {seen.shape}; expected [B, O] with B = {len(rows)}"
            )
        if self._noisy.any():
            seen = seen.copy()
            for number, row in enumerate(np.asarray(rows).tolist()):
                if self._noisy[row]:
                    seen[number] += self._noise[row] * self._generators[row].standard_normal(seen.shape[1])
        if everything:
            self.observations = seen.copy()
        else:
            if not self.observations.shape[1]:
                self.observations = np.zeros((len(self._models), seen.shape[1]))
            self.observations[rows] = seen


def _columns(tasks: Sequence[Task]) -> dict[str, Floats]:
    return {name: np.array([task[name] for task in tasks], np.float64) for name in tasks[0]}


def _checked(family: MujocoTasks, name: str, value: npt.ArrayLike, shape: tuple[int, ...]) -> Floats:
    array = np.asarray(value)
    if array.shape != shape:
        raise ValueError(f"{type(family).__name__}.{name}: shape {array.shape}; expected {shape}, one for each body")
    return array


def _checked_latency(family: MujocoTasks, task: Task) -> int:
    latency = family.latency(task)
    if latency != int(latency) or latency < 0:
        raise ValueError(f"{type(family).__name__}.latency: {latency!r}; expected a number of steps, 0 or more")
    return int(latency)
