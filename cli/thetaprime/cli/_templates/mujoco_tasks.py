"""Tasks for meta-training: bodies of one MuJoCo model that differ from task to task.

Every name and number below is an example: put your model in its place.
"""

from collections.abc import Sequence

import mujoco
import numpy as np
import numpy.typing as npt
from thetaprime.training.tasks import BodyState, MujocoTasks, Task, scale_model

Floats = npt.NDArray[np.float64]


class MyTasks(MujocoTasks):
    """Poles of unknown mass and damping, with a motor of unknown strength that answers late."""

    # MJCF text, or the path of an MJCF file: str(Path(__file__).with_name("robot.xml")).
    # Give every motor a ctrlrange: it is the range of the actions.
    model = """
    <mujoco>
      <option timestep="0.01"/>
      <worldbody>
        <body name="pole">
          <joint name="hinge" axis="0 1 0" damping="0.1"/>
          <geom type="capsule" fromto="0 0 0 0 0 -0.5" size="0.03"/>
        </body>
      </worldbody>
      <actuator>
        <motor joint="hinge" ctrlrange="-1 1" ctrllimited="true" gear="3"/>
      </actuator>
    </mujoco>
    """
    horizon = 100  # steps of an episode
    frame_skip = 2  # physics steps in each
    reset_noise = 0.1  # half-width of the noise on the initial positions and velocities
    reward_formula = "-cos(angle) - 0.01 * action²"  # in words, for the model card

    def sample_tasks(self, count: int, rng: np.random.Generator) -> Sequence[Task]:
        """Samples tasks with the given generator and no other; names and numbers alone."""
        return [
            {
                "mass": float(rng.uniform(0.5, 2.0)),
                "damping": float(rng.uniform(0.5, 2.0)),
                "strength": float(rng.uniform(0.5, 1.5)),
                "late": float(rng.integers(3)),
            }
            for _ in range(count)
        ]

    def vary_model(self, model: mujoco.MjModel, task: Task) -> None:
        """Changes a copy of the model. A factor is one number, or one for each element."""
        mass, damping, strength = task["mass"], task["damping"], task["strength"]
        scale_model(model, mass=mass, inertia=mass, damping=damping, strength=strength)

    def latency(self, task: Task) -> int:
        """Steps until an action acts. Leave it out if actions act at once."""
        return round(float(np.asarray(task["late"])))

    # The functions below are of B bodies at once: position is [B, nq], velocity [B, nv].

    def observe(self, state: BodyState) -> Floats:
        """The observations [B, O]. They must not contain the task."""
        angle = state.position[:, :1]
        return np.concatenate([np.cos(angle), np.sin(angle), state.velocity], axis=1)

    def reward(self, before: BodyState, actions: Floats, after: BodyState) -> Floats:
        """The rewards [B]. They may depend on the tasks' numbers: after.task["mass"] [B]."""
        upright: Floats = -np.cos(after.position[:, 0])
        return upright - 0.01 * np.square(actions[:, 0])

    def terminated(self, after: BodyState) -> npt.NDArray[np.bool_]:
        """Whether each episode ends before the horizon [B], as of a robot that fell."""
        return np.zeros(len(after.position), np.bool_)
