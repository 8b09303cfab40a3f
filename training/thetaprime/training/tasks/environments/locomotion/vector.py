"""Many robots as one `VectorEnv`, stepped on native threads."""

import functools
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from mujoco import rollout

from thetaprime.training.registration import LOCOMOTION_HORIZON
from thetaprime.training.resources import available_cores
from thetaprime.training.tasks.environments.locomotion.bodies import Body, Floats, Goal, State


@functools.lru_cache(maxsize=4)
def _pool(threads: int) -> rollout.Rollout:
    # Environments are made for every batch of trajectories: the pool of threads is kept.
    return rollout.Rollout(nthread=threads)


class Simulator:
    """Steps the states of up to B robots by `mujoco.rollout`.

    Each environment step starts the constraint solver cold, so that the next state depends on the state and the action
    alone, not on other robots that the thread simulated.

    Args:
        body: the robot.
        count: B, the largest number of robots to step at once.
        threads: that share the robots; the result does not depend on them.
    """

    def __init__(self, body: Body, count: int, threads: int) -> None:
        model = body.model
        self._body, self._threads = body, threads
        self._models = [model] * count
        self._data = [mujoco.MjData(model) for _ in range(threads)]
        width = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS.value)
        self._initial = np.zeros((count, width))
        self._states = np.empty((count, body.frame_skip, width))
        self._sensors = np.empty((count, body.frame_skip, model.nsensordata))
        self._controls = np.empty((count, body.frame_skip, model.nu))
        # A full physics state is the time, qpos and qvel, in this order.
        self._position = slice(1, 1 + model.nq)
        self._velocity = slice(1 + model.nq, 1 + model.nq + model.nv)

    def step(self, state: State, actions: npt.ArrayLike) -> tuple[State, Floats]:
        """Takes one environment step, `frame_skip` physics steps, under constant controls.

        Args:
            state: of n ≤ B robots.
            actions: [n, A]; the actuators clip them to ±1.

        Returns:
            The next state, and the sensors [n, ...] during the last physics step; both are valid until the next call.
        """
        n = len(state.position)
        initial, states, sensors = self._initial[:n], self._states[:n], self._sensors[:n]
        initial[:, self._position] = state.position
        initial[:, self._velocity] = state.velocity
        self._controls[:n] = np.asarray(actions)[:, None]
        _pool(self._threads).rollout(
            self._models[:n],
            self._data,
            initial,
            self._controls[:n],
            skip_checks=True,
            nstep=self._body.frame_skip,
            state=states,
            sensordata=sensors,
        )
        last = states[:, -1]
        return State(last[:, self._position], last[:, self._velocity]), sensors[:, -1]


class LocomotionVector(VectorEnv[Floats, npt.NDArray[np.float32], npt.NDArray[Any]]):
    """Many robots, each with a goal, with next-step autoreset.

    Its steps equal those of single environments to the bit: robot i is seeded with seed + i.

    Args:
        body: the robot.
        kind: the kind of goal.
        goal: one goal for all robots, or [num_envs].
        num_envs: B.
        max_episode_steps: episodes are truncated after so many steps.
        threads: that share the robots; None for the available cores.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        body: Body,
        kind: Goal,
        goal: npt.ArrayLike | None = None,
        num_envs: int = 1,
        max_episode_steps: int = LOCOMOTION_HORIZON,
        threads: int | None = None,
    ) -> None:
        self.num_envs = num_envs
        self.single_observation_space = Box(-np.inf, np.inf, (body.observation_size,), np.float64)
        self.single_action_space = Box(-1.0, 1.0, (int(body.model.nu),), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._body, self._kind = body, kind
        self._goals = kind.check(kind.default if goal is None else goal, num_envs)
        self._max_episode_steps = max_episode_steps
        self._simulator = Simulator(body, num_envs, threads or min(num_envs, available_cores()))
        self._generators: list[np.random.Generator] = []
        self._position = np.zeros((num_envs, body.model.nq))
        self._velocity = np.zeros((num_envs, body.model.nv))
        self._elapsed = np.zeros(num_envs, np.int64)
        self._ended = np.zeros(num_envs, np.bool_)
        self._parked = np.zeros(num_envs, np.bool_)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Returns every robot to its start."""
        if seed is not None or not self._generators:
            seeds = seed if isinstance(seed, list) else [seed if seed is None else seed + i for i in self._all]
            self._generators = [seeding.np_random(each)[0] for each in seeds]
        self._parked[:] = False
        self._restart(np.arange(self.num_envs))
        return self._body.observe(self._position, self._velocity), {}

    def park(self, environments: npt.NDArray[np.bool_]) -> None:
        """Stops simulating robots until the next reset.

        Args:
            environments: [B], true for the robots to stop.
        """
        self._parked |= environments

    def step(
        self, actions: npt.NDArray[np.float32]
    ) -> tuple[Floats, Floats, npt.NDArray[np.bool_], npt.NDArray[np.bool_], dict[str, Any]]:
        """Moves every robot; returns it to its start instead if its episode has ended."""
        again = np.flatnonzero(self._ended & ~self._parked)
        moving = np.flatnonzero(~self._ended & ~self._parked)
        rewards, velocities = np.zeros(self.num_envs), np.zeros(self.num_envs)
        terminated = np.zeros(self.num_envs, np.bool_)
        if len(moving):
            # Usually all robots move: a slice avoids the copies that an index makes.
            rows = moving if len(moving) < self.num_envs else slice(None)
            taken, before = np.asarray(actions)[rows], self._position[rows, 0].copy()
            controls = self._body.controls(taken)
            after, sensors = self._simulator.step(State(self._position[rows], self._velocity[rows]), controls)
            outcome = self._body.outcome(self._kind, self._goals[rows], taken, before, after, sensors)
            self._position[rows], self._velocity[rows] = after.position, after.velocity
            rewards[rows], velocities[rows], terminated[rows] = outcome.reward, outcome.velocity, outcome.fallen
            self._elapsed[rows] += 1
        if len(again):
            self._restart(again)
        truncated = self._elapsed >= self._max_episode_steps
        truncated[self._parked] = False
        self._ended = terminated | truncated
        observation = self._body.observe(self._position, self._velocity)
        return observation, rewards, terminated, truncated, {"x_velocity": velocities}

    @property
    def _all(self) -> range:
        return range(self.num_envs)

    def _restart(self, robots: npt.NDArray[np.int64]) -> None:
        for index in robots.tolist():
            self._position[index], self._velocity[index] = self._body.initial(self._generators[index])
        self._elapsed[robots] = 0
        self._ended[robots] = False
