"""The base class of families of MuJoCo models."""

import dataclasses
import functools
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import gymnasium
import mujoco
import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv

from thetaprime.models import BoxAction, EnvironmentContract, RewardContract
from thetaprime.training.tasks.protocol import Task

Floats = npt.NDArray[np.float64]
_CACHED: Final = 256  # models of the last tasks
_SIZES: Final = (
    *("nq", "nv", "na", "nu", "nbody", "njnt", "ngeom", "nsite", "ncam", "ntendon", "neq", "nmocap"),
    *("nsensor", "nsensordata", "nuserdata", "npluginstate", "nhfielddata"),
)


@dataclasses.dataclass(frozen=True)
class BodyState:
    """The states of B bodies.

    Attributes:
        position: [B, nq], qpos.
        velocity: [B, nv], qvel.
        sensors: [B, nsensordata]. After a step, as MuJoCo computed them at the beginning of its last physics step.
        task: the tasks' numbers by name, [B] or [B, ...]: a reward may depend on them. An observation must not.
    """

    position: Floats
    velocity: Floats
    sensors: Floats
    task: Mapping[str, Floats]


class MujocoTasks:
    """A family of bodies, one for each task, that differ in the numbers of one MuJoCo model.

    Derive a class, give `model`, `sample_tasks`, `vary_model` or `vary_spec`, `reward`, and what else differs from the
    defaults. The class is a task distribution with a batched form: bodies of different tasks are stepped side by side
    by `mujoco.rollout` on all cores. Each environment step starts the constraint solver cold: the next state depends on
    the state and the action alone, so the batch equals single environments to the bit.

    Attributes:
        model: the path of an MJCF file, MJCF text, an `MjSpec`, or a compiled `MjModel`.
        horizon: H, the steps of an episode.
        frame_skip: physics steps in one environment step.
        reset_noise: half-width of the uniform noise on the initial qpos and qvel.
        reward_formula: the reward in words, for the model card.
    """

    model: ClassVar[Any]
    horizon: ClassVar[int] = 200
    frame_skip: ClassVar[int] = 5
    reset_noise: ClassVar[float] = 0.0
    reward_formula: ClassVar[str] = ""

    # What a family defines.

    def sample_tasks(self, count: int, rng: np.random.Generator) -> Sequence[Task]:
        """Samples `count` tasks. The same generator state gives the same tasks."""
        raise NotImplementedError

    def vary_spec(self, spec: mujoco.MjSpec, task: Task) -> None:
        """Changes a copy of the model's specification for a task, before it is compiled. Sizes must stay."""

    def vary_model(self, model: mujoco.MjModel, task: Task) -> None:
        """Changes a copy of the compiled model for a task (`scale_model`). Derived constants are computed after it."""

    def latency(self, task: Task) -> int:
        """Environment steps after which an action acts. Before the first one, controls are 0."""
        return 0

    def observation_noise(self, task: Task) -> float | Floats:
        """Standard deviation of the noise on the observation: a number, or [O]."""
        return 0.0

    def initial(self, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Samples the start of an episode: qpos [nq] and qvel [nv]."""
        model, noise = self.nominal, self.reset_noise
        return (
            model.qpos0 + rng.uniform(-noise, noise, model.nq),
            rng.uniform(-noise, noise, model.nv),
        )

    def observe(self, state: BodyState) -> Floats:
        """The observations [B, O]; by default all positions and velocities."""
        return np.concatenate([state.position, state.velocity], axis=1)

    def reward(self, before: BodyState, actions: Floats, after: BodyState) -> Floats:
        """The rewards [B] of a step.

        Args:
            before: the states before the step.
            actions: [B, A], clipped to the actuators' ranges. With latency, they act later.
            after: the states after the step.
        """
        raise NotImplementedError

    def terminated(self, after: BodyState) -> npt.NDArray[np.bool_]:
        """Whether each episode ends, [B]. An episode also ends where a state is not finite."""
        return np.zeros(len(after.position), np.bool_)

    # What follows from it.

    @functools.cached_property
    def _source(self) -> mujoco.MjSpec | mujoco.MjModel:
        given = self.model
        if isinstance(given, mujoco.MjSpec | mujoco.MjModel):
            return given
        text = str(given)
        try:
            if isinstance(given, str) and text.lstrip().startswith("<"):
                return mujoco.MjSpec.from_string(text)
            if not Path(text).is_file():
                raise ValueError("there is no such file")
            return mujoco.MjSpec.from_file(text)
        except ValueError as error:
            shown = text if len(text) < 80 else f"{text[:77]}..."
            raise ValueError(
                f"{type(self).__name__}.model: {shown!r}: {error}; expected the path of an MJCF file, MJCF text, an "
                "MjSpec or an MjModel"
            ) from error

    @functools.cached_property
    def nominal(self) -> mujoco.MjModel:
        """The model without a variation. It is shared: do not modify it."""
        return self._source if isinstance(self._source, mujoco.MjModel) else self._source.copy().compile()

    @functools.cached_property
    def _models(self) -> OrderedDict[str, mujoco.MjModel]:
        return OrderedDict()

    def model_of(self, task: Task) -> mujoco.MjModel:
        """The model of a task. It is shared: do not modify it.

        Raises:
            ValueError: a variation changes a size, an actuator's range or the time step, or cannot be compiled.
        """
        key = json.dumps(task, sort_keys=True)
        if key not in self._models:
            self._models[key] = self._made(task)
            if len(self._models) > _CACHED:
                self._models.popitem(last=False)
        self._models.move_to_end(key)
        return self._models[key]

    def _made(self, task: Task) -> mujoco.MjModel:
        name = type(self).__name__
        if type(self).vary_spec is MujocoTasks.vary_spec:
            model = self.nominal.__copy__()
        else:
            if isinstance(self._source, mujoco.MjModel):
                raise ValueError(f"{name}.model: an MjModel, which vary_spec cannot change; give its MjSpec or MJCF")
            spec = self._source.copy()
            self.vary_spec(spec, task)
            try:
                model = spec.compile()
            except ValueError as error:
                raise ValueError(f"{name}.vary_spec, task {task}: {error}") from error
        if type(self).vary_model is not MujocoTasks.vary_model:
            self.vary_model(model, task)
            mujoco.mj_setConst(model, mujoco.MjData(model))
        self._check(model, task)
        return model

    def _check(self, model: mujoco.MjModel, task: Task) -> None:
        nominal, name = self.nominal, type(self).__name__
        for size in _SIZES:
            before, after = getattr(nominal, size), getattr(model, size)
            if before != after:
                raise ValueError(
                    f"{name}.vary_spec, task {task}: {size} is {after}; without the variation it is {before}. The "
                    "tasks of a family vary numbers: every model needs the same bodies, joints, geoms, actuators and "
                    "sensors"
                )
        for array in ("actuator_ctrlrange", "actuator_ctrllimited"):
            if not np.array_equal(getattr(nominal, array), getattr(model, array)):
                raise ValueError(
                    f"{name}, task {task}: {array} differs from the model's; the actions of all tasks have one range "
                    "(vary the strength of the motors instead)"
                )
        if model.opt.timestep != nominal.opt.timestep:
            raise ValueError(
                f"{name}, task {task}: opt.timestep is {model.opt.timestep:g} s; the model's is "
                f"{nominal.opt.timestep:g} s, and all tasks have one"
            )

    @functools.cached_property
    def environment(self) -> EnvironmentContract:
        """The spaces, the horizon and the time step of every task's environment."""
        from thetaprime.training.tasks.bodies.simulation import Bodies

        low, high = self.action_range
        (task,) = self.sample_tasks(1, np.random.default_rng(0))
        bodies = Bodies(self, [task], threads=0)
        bodies.reset([0], [np.random.default_rng(0)])
        return EnvironmentContract(
            environment_id=self.environment_id,
            observation_shape=bodies.observations.shape[1:],
            action=BoxAction(low=tuple(low.tolist()), high=tuple(high.tolist())),
            horizon=self.horizon,
            control_timestep=self.seconds,
            reward=RewardContract(formula=self.reward_formula) if self.reward_formula else None,
        )

    @property
    def environment_id(self) -> str:
        """The Gymnasium id, or the class's name."""
        return type(self).__name__

    @property
    def seconds(self) -> float:
        """The duration of one environment step."""
        return float(self.nominal.opt.timestep) * self.frame_skip

    @functools.cached_property
    def action_range(self) -> tuple[Floats, Floats]:
        """Two [A]: the actuators' control ranges; infinite where a control is not limited."""
        limited = self.nominal.actuator_ctrllimited.astype(bool)
        low, high = self.nominal.actuator_ctrlrange.T
        return np.where(limited, low, -np.inf), np.where(limited, high, np.inf)

    def make(self, task: Task) -> gymnasium.Env[Any, Any]:
        """Makes the environment of a task."""
        from thetaprime.training.tasks.bodies.single import BodyEnv

        return gymnasium.wrappers.TimeLimit(BodyEnv(self, task), self.horizon)

    def set_task(self, env: gymnasium.Env[Any, Any], task: Task) -> None:
        """Gives an environment the body of another task."""
        from thetaprime.training.tasks.bodies.single import BodyEnv

        body = env.unwrapped
        if not isinstance(body, BodyEnv):
            raise TypeError(f"env: {env}; expected an environment that make made")
        body.set_task(task)

    def make_vector(self, tasks: Sequence[Task]) -> VectorEnv[Any, Any, Any]:
        """Makes one environment that steps the bodies of all tasks on native threads."""
        from thetaprime.training.tasks.bodies.vector import BodiesVector

        return BodiesVector(self, tasks)

    def __getstate__(self) -> dict[str, Any]:
        """Without the models, which a process makes for itself."""
        made = ("_source", "nominal", "_models", "action_range", "environment")
        return {name: value for name, value in self.__dict__.items() if name not in made}
