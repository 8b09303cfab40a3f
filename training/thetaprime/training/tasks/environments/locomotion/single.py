"""One robot as an `Env` that can be rendered."""

from typing import Any, ClassVar, Final

import mujoco
import numpy as np
import numpy.typing as npt
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.spaces import Box
from gymnasium.utils import EzPickle

from thetaprime.training.tasks.environments.locomotion.bodies import (
    ANT,
    DIRECTION,
    HALF_CHEETAH,
    VELOCITY,
    Body,
    Floats,
    Goal,
    State,
)

_ELEVATION: Final = np.radians(18.0)  # of the camera, above the horizon


class Locomotion(MujocoEnv, EzPickle):
    """Base of the four environments.

    They differ from the paper's, so compare scores, not returns:

    - The physics are Gymnasium's models (frame skip 5, a step of 0.05 s).
    - The observation is the joint positions without the place, and the velocities. rllab's robots also observed the
      torso's place and the contact forces.
    - The rewarded velocity is that of the root's x over the step, not of the center of mass.
    - The control cost is on the clipped action.

    Each step starts the constraint solver cold: the next state depends on the state and the action alone.

    Args:
        goal: the velocity in m/s, or the direction.
        render_mode: as in Gymnasium's environments.
        **kwargs: width, height and camera, as in `MujocoEnv`.
    """

    metadata = {  # noqa: RUF012
        "render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"],
        "render_fps": 20,
    }
    body: ClassVar[Body]
    kind: ClassVar[Goal]

    def __init__(self, goal: float | None = None, render_mode: str | None = None, **kwargs: Any) -> None:
        EzPickle.__init__(self, goal, render_mode, **kwargs)
        if kwargs.get("camera_id") is None:
            kwargs.setdefault("camera_name", "track")  # Gymnasium's default camera stands still
        self._goal = self.kind.check(self.kind.default if goal is None else goal, 1)
        MujocoEnv.__init__(
            self,
            str(self.body.model_path),
            self.body.frame_skip,
            observation_space=Box(-np.inf, np.inf, (self.body.observation_size,), np.float64),
            render_mode=render_mode,
            **kwargs,
        )

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        # The body's model with its sensors; a copy, because a viewer may write to it.
        model = self.body.model.__copy__()
        model.vis.global_.offwidth, model.vis.global_.offheight = self.width, self.height
        _look_from_the_side(model, self.body.camera_distance)
        return model, mujoco.MjData(model)

    def step(  # type: ignore[override]  # plain floats, as Gymnasium's checker requires
        self, action: npt.NDArray[np.float32]
    ) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Moves the robot for 0.05 s."""
        before = self.data.qpos[:1].copy()
        self.data.qacc_warmstart[:] = 0.0
        self.do_simulation(self.body.controls(action), self.frame_skip)
        after = State(self.data.qpos[None].copy(), self.data.qvel[None].copy())
        sensors = self.data.sensordata[None]
        outcome = self.body.outcome(self.kind, self._goal, np.asarray(action)[None], before, after, sensors)
        if self.render_mode == "human":
            self.render()  # type: ignore[no-untyped-call]
        info = {
            "x_position": float(after.position[0, 0]),
            "x_velocity": float(outcome.velocity[0]),
            **self._get_reset_info(),
        }
        return outcome.observation[0], float(outcome.reward[0]), bool(outcome.fallen[0]), False, info

    def _get_reset_info(self) -> dict[str, float]:
        # For spectators: the policy observes no goal.
        return {f"goal_{self.kind.name}": float(self._goal[0])}

    def reset_model(self) -> Floats:
        """Returns the robot to its start."""
        position, velocity = self.body.initial(self.np_random)
        self.set_state(position, velocity)  # type: ignore[no-untyped-call]
        return self.body.observe(position, velocity)


def _look_from_the_side(model: mujoco.MjModel, distance: float) -> None:
    """Places the following camera at the side, where it shows the robot and the ground."""
    index = model.camera("track").id
    away = np.array([0.0, -np.cos(_ELEVATION), np.sin(_ELEVATION)])
    right = np.array([1.0, 0.0, 0.0])
    model.cam_poscom0[index] = distance * away
    model.cam_mat0[index] = np.stack([right, np.cross(away, right), away], axis=1).ravel()


class HalfCheetahVelocity(Locomotion):
    """Run at `goal` m/s: −|v − goal| − 0.05 ‖clip(a)‖² a step. In the paper goals are U(0, 2)."""

    body, kind = HALF_CHEETAH, VELOCITY


class HalfCheetahDirection(Locomotion):
    """Run forward (`goal` 1) or backward (−1): goal · v − 0.05 ‖clip(a)‖² a step."""

    body, kind = HALF_CHEETAH, DIRECTION


class AntVelocity(Locomotion):
    """Walk along x at `goal` m/s: 1 − |v − goal| − 0.005 ‖clip(a)‖² − contact cost + 0.05 a step.

    In the paper goals are U(0, 3). The contact cost is 0.0005 ‖clip(f, ±1)‖² over the contact force and torque on every
    part, at the beginning of the step's last physics step. The episode ends when the torso leaves 0.2..1.0 m.
    """

    body, kind = ANT, VELOCITY


class AntDirection(Locomotion):
    """Walk forward (`goal` 1) or backward (−1) along x: goal · v − 0.005 ‖clip(a)‖² − contact cost + 0.05 a step.

    Contact cost and end as in `AntVelocity`.
    """

    body, kind = ANT, DIRECTION
