"""One body as an `Env` that can be rendered."""

from typing import Any

import gymnasium
import mujoco
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box

from thetaprime.training.tasks.bodies.family import Floats, MujocoTasks
from thetaprime.training.tasks.bodies.simulation import Bodies
from thetaprime.training.tasks.protocol import Task

_ROW = np.zeros(1, np.int64)


class BodyEnv(gymnasium.Env[Floats, npt.NDArray[np.float32]]):
    """The body of one task. It does not end by itself after the horizon: `MujocoTasks.make` adds the limit.

    Args:
        family: makes the body.
        task: of the body.
        render_mode: ``rgb_array`` for pictures; None.
        width: of a picture, in pixels.
        height: of a picture, in pixels.
        camera: name or number of the model's camera; -1 for a free camera.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012  # as Gymnasium declares it

    def __init__(
        self,
        family: MujocoTasks,
        task: Task,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
        camera: str | int = -1,
    ) -> None:
        if render_mode not in {None, "rgb_array"}:
            raise ValueError(f"render_mode: {render_mode!r}; expected rgb_array or None")
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": max(1, round(1.0 / family.seconds))}
        self._family, self._size, self._camera = family, (height, width), camera
        self._renderer: mujoco.Renderer | None = None
        low, high = family.action_range
        (size,) = family.environment.observation_shape
        self.observation_space = Box(-np.inf, np.inf, (size,), np.float64)
        self.action_space = Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
        self.set_task(task)

    def set_task(self, task: Task) -> None:
        """Takes the body of another task; reset before the next step."""
        self._task, self._bodies = task, Bodies(self._family, [task], threads=0)
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        """Returns the body to its start."""
        super().reset(seed=seed)
        self._bodies.reset([0], [self.np_random])
        return self._bodies.observations[0].copy(), {}

    def step(self, action: npt.NDArray[np.float32]) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Moves the body."""
        rewards, ended = self._bodies.step(_ROW, np.asarray(action)[None])
        return self._bodies.observations[0].copy(), float(rewards[0]), bool(ended[0]), False, {}

    def render(self) -> npt.NDArray[np.uint8] | None:
        """A picture [height, width, 3]; None without a render mode."""
        if self.render_mode is None:
            return None
        model = self._family.model_of(self._task)
        if self._renderer is None:
            self._renderer = mujoco.Renderer(model, *self._size)
        data = mujoco.MjData(model)
        mujoco.mj_setState(model, data, self._bodies.states[0], mujoco.mjtState.mjSTATE_FULLPHYSICS.value)
        mujoco.mj_forward(model, data)
        self._renderer.update_scene(data, camera=self._camera)
        picture: npt.NDArray[np.uint8] = self._renderer.render()
        return picture

    def close(self) -> None:
        """Frees the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
