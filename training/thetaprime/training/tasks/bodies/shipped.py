"""The shipped families of bodies.

The ranges of walker-body are those of rand_param_envs (Rothfuss et al. 2019, section 5): masses, inertias and frictions
times 1.5^e, dampings times 1.3^e, with exponents e from U(−3, 3) for each element. Dead motors follow learning_to_adapt
(Nagabandi et al. 2019), and motor strengths RMA (Kumar et al. 2021). Bodies are sampled, not fixed to 40.

A task holds exponents and not factors, so that an oracle, which observes them unscaled, sees numbers around 0.
"""

from pathlib import Path
from typing import Any, ClassVar, Final

import gymnasium
import gymnasium.envs.mujoco
import mujoco
import numpy as np
import numpy.typing as npt

from thetaprime.training.registration import BODY_HORIZON
from thetaprime.training.tasks.bodies.family import BodyState, Floats, MujocoTasks
from thetaprime.training.tasks.bodies.single import BodyEnv
from thetaprime.training.tasks.bodies.variations import scale_model
from thetaprime.training.tasks.environments.locomotion import ANT, DIRECTION, HALF_CHEETAH, Body
from thetaprime.training.tasks.environments.locomotion.bodies import State
from thetaprime.training.tasks.protocol import Task

MASS_BASE: Final = 1.5
"""Factor on a mass, inertia or friction for an exponent of 1."""
DAMPING_BASE: Final = 1.3
LARGEST_EXPONENT: Final = 3.0
STRENGTHS: Final = (0.7, 1.3)
"""Range of a motor's strength in half-cheetah-body."""


def _exponents(rng: np.random.Generator, count: int) -> list[float]:
    drawn: list[float] = rng.uniform(-LARGEST_EXPONENT, LARGEST_EXPONENT, count).tolist()
    return drawn


def _powers(base: float, exponents: Any) -> Floats:
    return np.power(base, np.asarray(exponents, np.float64))


class ShippedBodies(MujocoTasks):
    """Base of the shipped families, whose environments are registered with Gymnasium.

    Attributes:
        name: of the environment.
        nominal_task: the task of the body without a variation.
    """

    horizon = BODY_HORIZON
    name: ClassVar[str]
    nominal_task: ClassVar[dict[str, float | list[float]]]

    @property
    def environment_id(self) -> str:
        """The Gymnasium id."""
        return f"thetaprime/{self.name}-v0"

    def make(self, task: Task) -> gymnasium.Env[Any, Any]:
        """Makes the registered environment with the task's body."""
        arguments: dict[str, Any] = dict(task)
        return gymnasium.make(self.environment_id, **arguments)


class _Runner(ShippedBodies):
    """Runs forward: the observation, the reward and the end of `Body` with the goal direction 1."""

    body: ClassVar[Body]

    @property
    def reward_formula(self) -> str:  # type: ignore[override]  # it follows from the body
        """The reward of one step, in words."""
        return self.body.formula(DIRECTION).replace(" * goal direction", "")

    def initial(self, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Samples the start of an episode."""
        return self.body.initial(rng)

    def observe(self, state: BodyState) -> Floats:
        """The joint positions without the place, and the velocities."""
        return self.body.observe(state.position, state.velocity)

    def reward(self, before: BodyState, actions: Floats, after: BodyState) -> Floats:
        """The forward velocity, less the costs."""
        state, ones = State(after.position, after.velocity), np.ones(len(actions))
        return self.body.outcome(DIRECTION, ones, actions, before.position[:, 0], state, after.sensors).reward

    def terminated(self, after: BodyState) -> npt.NDArray[np.bool_]:
        """Whether the body has fallen."""
        if self.body.healthy_height is None:
            return np.zeros(len(after.position), np.bool_)
        low, high = self.body.healthy_height
        return ~((after.position[:, 2] >= low) & (after.position[:, 2] <= high))


class HalfCheetahBodyTasks(_Runner):
    """Half-cheetahs that run forward with unknown bodies; one motor is off in a third of the tasks.

    A task is ``{"mass": [7], "inertia": [7], "friction": [9], "damping": [6], "strength": [6]}``: exponents of the
    bodies' masses and inertias, of the sliding friction of the ground and of each geom, and of the joints' dampings, in
    U(−3, 3); and factors on the motors, in U(0.7, 1.3) or 0.
    """

    body, name = HALF_CHEETAH, "HalfCheetahBody"
    model = HALF_CHEETAH.model_path
    nominal_task: ClassVar = {
        "mass": [0.0] * 7,
        "inertia": [0.0] * 7,
        "friction": [0.0] * 9,
        "damping": [0.0] * 6,
        "strength": [1.0] * 6,
    }

    @property
    def nominal(self) -> mujoco.MjModel:  # the body's, with its total mass
        """The model without a variation."""
        return HALF_CHEETAH.model

    def sample_tasks(self, count: int, rng: np.random.Generator) -> list[Task]:
        """Samples bodies."""
        return [self._sample(rng) for _ in range(count)]

    def _sample(self, rng: np.random.Generator) -> Task:
        task: dict[str, list[float]] = {
            name: _exponents(rng, np.size(self.nominal_task[name]))
            for name in ("mass", "inertia", "friction", "damping")
        }
        strength = rng.uniform(*STRENGTHS, 6)
        dead, motor = rng.random() < 1 / 3, rng.integers(6)
        if dead:
            strength[motor] = 0.0
        return {**task, "strength": strength.tolist()}

    def vary_model(self, model: mujoco.MjModel, task: Task) -> None:
        """Scales the body."""
        scale_model(
            model,
            mass=_powers(MASS_BASE, task["mass"]),
            inertia=_powers(MASS_BASE, task["inertia"]),
            friction=_powers(MASS_BASE, task["friction"]),
            damping=np.concatenate([np.ones(3), _powers(DAMPING_BASE, task["damping"])]),
            strength=task["strength"],
        )


class AntLegTasks(_Runner):
    """Ants that walk forward with one unknown leg dead: leg 1, 2 or 3.

    A task is ``{"dead": [4]}``: 1 for the leg whose two motors are off, else 0.
    """

    body, name = ANT, "AntLeg"
    nominal_task: ClassVar = {"dead": [0.0] * 4}
    legs: ClassVar[tuple[int, ...]] = (1, 2, 3)

    @property
    def nominal(self) -> mujoco.MjModel:  # the body's, with its contact sensors
        """The model without a variation."""
        return ANT.model

    def sample_tasks(self, count: int, rng: np.random.Generator) -> list[Task]:
        """Equally many tasks of each leg, the first at random."""
        first = int(rng.integers(len(self.legs)))
        legs = [self.legs[(first + index) % len(self.legs)] for index in range(count)]
        return [{"dead": [float(leg == each) for each in (1, 2, 3, 4)]} for leg in legs]

    def vary_model(self, model: mujoco.MjModel, task: Task) -> None:
        """Turns the leg's motors off."""
        dead = np.asarray(task["dead"])
        legs = [int(model.joint(joint).name[-1]) - 1 for joint in model.actuator_trnid[:, 0].tolist()]
        scale_model(model, strength=1.0 - dead[legs])


class AntFourthLegTasks(AntLegTasks):
    """The ants whose fourth leg is dead: tasks that meta-training has not seen."""

    legs = (4,)


class WalkerBodyTasks(ShippedBodies):
    """Walkers of unknown masses, inertias, frictions and dampings, each element times 1.5^U(−3, 3) or 1.3^U(−3, 3).

    A task is ``{"mass": [7], "inertia": [21], "friction": [24], "damping": [6]}``, exponents. The physics, the
    observation and the end are those of Gymnasium's Walker2d-v5. The reward is the forward velocity, less
    0.001 ‖clip(a)‖², plus 0.1: standing still for 200 steps returns 20.
    """

    name = "WalkerBody"
    model = Path(gymnasium.envs.mujoco.__file__).parent / "assets" / "walker2d_v5.xml"
    frame_skip, reset_noise = 4, 5e-3
    alive_bonus, control_cost = 0.1, 1e-3
    reward_formula = "forward velocity - 0.001 * |action|^2 + 0.1"
    nominal_task: ClassVar = {
        "mass": [0.0] * 7,
        "inertia": [0.0] * 21,
        "friction": [0.0] * 24,
        "damping": [0.0] * 6,
    }

    def sample_tasks(self, count: int, rng: np.random.Generator) -> list[Task]:
        """Samples bodies."""
        return [
            {name: _exponents(rng, np.size(values)) for name, values in self.nominal_task.items()} for _ in range(count)
        ]

    def vary_model(self, model: mujoco.MjModel, task: Task) -> None:
        """Scales the body."""
        scale_model(
            model,
            mass=_powers(MASS_BASE, task["mass"]),
            inertia=_powers(MASS_BASE, task["inertia"]).reshape(7, 3),
            friction=_powers(MASS_BASE, task["friction"]).reshape(8, 3),
            damping=np.concatenate([np.ones(3), _powers(DAMPING_BASE, task["damping"])]),
        )

    def observe(self, state: BodyState) -> Floats:
        """The joint positions without the place, and the velocities within ±10."""
        return np.concatenate([state.position[:, 1:], np.clip(state.velocity, -10.0, 10.0)], axis=1)

    def reward(self, before: BodyState, actions: Floats, after: BodyState) -> Floats:
        """The forward velocity, less the cost of control, plus the bonus."""
        velocity: Floats = (after.position[:, 0] - before.position[:, 0]) / self.seconds
        rewards: Floats = velocity - self.control_cost * np.square(actions).sum(axis=1) + self.alive_bonus
        return rewards

    def terminated(self, after: BodyState) -> npt.NDArray[np.bool_]:
        """Whether the torso has left its range of heights or angles."""
        height, angle = after.position[:, 1], after.position[:, 2]
        healthy: npt.NDArray[np.bool_] = (height > 0.8) & (height < 2.0) & (angle > -1.0) & (angle < 1.0)
        return ~healthy


_FAMILIES: Final = {each.name: each() for each in (HalfCheetahBodyTasks, AntLegTasks, WalkerBodyTasks)}


class _ShippedEnv(BodyEnv):
    """A registered environment; the task's numbers are arguments, and the nominal body's where they are left out."""

    family: ClassVar[str]

    def __init__(self, render_mode: str | None = None, width: int = 480, height: int = 480, **task: Any) -> None:
        family = _FAMILIES[self.family]
        if unknown := sorted(task.keys() - family.nominal_task.keys()):
            raise ValueError(f"{unknown[0]}: unknown; a task of {self.family} has {', '.join(family.nominal_task)}")
        whole = {**family.nominal_task, **task}
        for name, nominal in family.nominal_task.items():
            if np.shape(whole[name]) != np.shape(nominal):
                raise ValueError(f"{name}: {whole[name]!r}; expected {np.size(nominal)} numbers")
        super().__init__(family, whole, render_mode, width, height, "track")


class HalfCheetahBody(_ShippedEnv):
    """One body of `HalfCheetahBodyTasks`."""

    family = "HalfCheetahBody"


class AntLeg(_ShippedEnv):
    """One ant of `AntLegTasks`."""

    family = "AntLeg"


class WalkerBody(_ShippedEnv):
    """One body of `WalkerBodyTasks`."""

    family = "WalkerBody"
