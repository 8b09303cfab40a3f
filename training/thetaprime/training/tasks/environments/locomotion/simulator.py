"""Many robots, one environment step further at once: native threads, no Python for each robot."""

import functools

import mujoco
import numpy as np
import numpy.typing as npt
from mujoco import rollout

from thetaprime.training.tasks.environments.locomotion.bodies import Body, Floats, State


@functools.lru_cache(maxsize=4)
def _pool(threads: int) -> rollout.Rollout:
    # A pool outlives the environments that use it: they come and go with every batch of trajectories.
    return rollout.Rollout(nthread=threads)


class Simulator:
    """Steps the states of up to B robots through `mujoco.rollout`.

    Each environment step starts the constraint solver cold, so that what comes next depends on state and action
    alone, whatever else the thread simulated before.

    Args:
        body: the robot.
        count: B, the most robots to step at once.
        threads: that share them; the result does not depend on it.
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
        """One environment step, `frame_skip` physics steps, under constant controls.

        Args:
            state: of n <= B robots.
            actions: [n, A]; the actuators clip them to ±1.

        Returns:
            The next state, and the sensors [n, ...] during the last physics step. Views, valid until the next call.
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
