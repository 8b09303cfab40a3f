"""The two robots: physics (Gymnasium's models), observation, goals, rewards, and the end of an episode."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import gymnasium.envs.mujoco
import mujoco
import numpy as np
import numpy.typing as npt

# The fields of a contact sensor, in order: force, torque about the contact point, contact point.
_CONTACT_FIELDS: Final = (
    mujoco.mjtConDataField.mjCONDATA_FORCE,
    mujoco.mjtConDataField.mjCONDATA_TORQUE,
    mujoco.mjtConDataField.mjCONDATA_POS,
)
_NET_FORCE: Final = 3  # a sensor's "reduce" mode: the sum of a body's contacts as one wrench, in world axes

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Goal:
    """A kind of goal, with its part of the reward.

    Attributes:
        name: as in the environments' names.
        reward: (forward velocity [...] in m/s, goal [...]) -> reward of one step [...].
        accepts: whether numbers are valid goals.
        formula: that part of the reward, in words.
        expected: a description of valid goals, for error messages.
        default: the goal of an environment made without one.
    """

    name: str
    reward: Callable[[Any, Any], Any]
    accepts: Callable[[Floats], npt.NDArray[np.bool_]]
    formula: str
    expected: str
    default: float

    def check(self, goal: npt.ArrayLike, count: int) -> Floats:
        """[count] goals, from one goal for all or one for each.

        Raises:
            ValueError: a goal is invalid, or their number differs from `count`.
        """
        try:
            goals = np.asarray(goal, np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"goal: {goal!r}; expected {self.expected}") from error
        if goals.shape not in {(), (1,), (count,)} or not np.isfinite(goals).all() or not self.accepts(goals).all():
            raise ValueError(f"goal: {goal!r}; expected {self.expected}")
        return np.broadcast_to(goals, (count,)).copy()


VELOCITY: Final = Goal(
    name="velocity",
    reward=lambda velocity, goal: -np.abs(velocity - goal),
    accepts=np.isfinite,
    formula="-|forward velocity - goal velocity|",
    expected="a forward velocity in m/s, finite",
    default=1.0,
)
DIRECTION: Final = Goal(
    name="direction",
    reward=lambda velocity, goal: velocity * goal,
    accepts=lambda goals: np.abs(goals) == 1.0,
    formula="forward velocity * goal direction",
    expected="1 (forward) or -1 (backward)",
    default=1.0,
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of one environment step, for B robots.

    Attributes:
        observation: [B, O].
        reward: [B].
        fallen: [B] bool.
        velocity: [B] forward velocity in m/s.
    """

    observation: Floats
    reward: Floats
    fallen: npt.NDArray[np.bool_]
    velocity: Floats


@dataclasses.dataclass(frozen=True)
class Body:
    """A robot.

    Attributes:
        name: of Gymnasium's model file.
        unobserved: number of coordinates at the head of qpos that give the place; they are not observed.
        control_cost: weight of ‖clip(a, ±1)‖².
        contact_cost: weight of ‖clip(f, ±1)‖², with f the contact forces and torques on all parts.
        bonus: added to every step's reward.
        velocity_bonus: added to every step's reward with a goal velocity.
        healthy_height: range of the torso's height in m, outside which the robot has fallen; None: it cannot fall.
        frame_skip: physics steps in one environment step.
        camera_distance: of the camera that follows the robot, in m.
        reset_noise: half-width of the uniform noise on the initial qpos, standard deviation of the noise on qvel.
    """

    name: str
    unobserved: int
    control_cost: float
    contact_cost: float = 0.0
    bonus: float = 0.0
    velocity_bonus: float = 0.0
    healthy_height: tuple[float, float] | None = None
    frame_skip: int = 5
    reset_noise: float = 0.1
    camera_distance: float = 3.0

    @property
    def model_path(self) -> Path:
        """The path of Gymnasium's model file."""
        return Path(gymnasium.envs.mujoco.__file__).parent / "assets" / f"{self.name}.xml"

    @functools.cached_property
    def model(self) -> mujoco.MjModel:
        """The physics, with contact sensors if contacts have a cost. It is shared: do not modify it."""
        spec = mujoco.MjSpec.from_file(str(self.model_path))
        if self.contact_cost:
            _add_contact_sensors(spec)
        # The total mass is set after compilation, as MuJoCo advises: the compiler's attribute is deprecated.
        mass, spec.compiler.settotalmass = spec.compiler.settotalmass, -1.0
        model = spec.compile()
        if mass > 0:
            mujoco.mj_setTotalmass(model, mass)
            mujoco.mj_setConst(model, mujoco.MjData(model))
        # A robot is one constraint island: the search for islands takes time and changes no bit.
        model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_ISLAND.value
        return model

    @property
    def seconds(self) -> float:
        """The duration of one environment step, in seconds."""
        return float(self.model.opt.timestep) * self.frame_skip

    @property
    def observation_size(self) -> int:
        """O, the size of qpos without the unobserved coordinates plus the size of qvel."""
        return int(self.model.nq) - self.unobserved + int(self.model.nv)

    def initial(self, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Samples the start of an episode: qpos [nq] and qvel [nv]."""
        noise = self.reset_noise
        position = self.model.qpos0 + rng.uniform(-noise, noise, self.model.nq)
        return position, noise * rng.standard_normal(self.model.nv)

    def controls(self, actions: npt.ArrayLike) -> Floats:
        """The actions clipped to ±1, for the actuators.

        Args:
            actions: [..., A].

        Raises:
            ValueError: an action is NaN, which MuJoCo would ignore without an error.
        """
        taken = np.clip(np.asarray(actions, np.float64), -1.0, 1.0)
        if np.isnan(taken).any():
            raise ValueError("action: NaN; expected numbers, which are clipped to ±1")
        return taken

    def observe(self, position: Floats, velocity: Floats) -> Floats:
        """The observation [..., O], from qpos [..., nq] and qvel [..., nv]."""
        return np.concatenate([position[..., self.unobserved :], velocity], axis=-1)

    def formula(self, goal: Goal) -> str:
        """The reward of one step, in words; see `outcome`."""
        bonus = self.bonus + (self.velocity_bonus if goal.name == "velocity" else 0.0)
        terms = [goal.formula, f"{self.control_cost:g} * |action|^2"]
        if self.contact_cost:
            terms.append(f"{self.contact_cost:g} * |contact forces|^2")
        return " - ".join(terms) + (f" + {bonus:g}" if bonus else "")

    def outcome(
        self, goal: Goal, goals: Floats, actions: npt.NDArray[Any], before: Floats, after: "State", sensors: Floats
    ) -> Outcome:
        """The outcome of a step, for B robots.

        Args:
            goal: the kind of goal.
            goals: [B].
            actions: [B, A].
            before: [B] x before the step, in m.
            after: the state after the step.
            sensors: [B, number of sensor values] during the step's last physics step.
        """
        velocity = (after.position[:, 0] - before) / self.seconds
        reward = goal.reward(velocity, goals) + self.bonus
        if goal.name == "velocity":
            reward = reward + self.velocity_bonus
        reward = reward - self.control_cost * np.square(np.clip(actions, -1.0, 1.0)).sum(-1)
        if self.contact_cost:
            reward = reward - self.contact_cost * np.square(np.clip(contact_wrenches(sensors), -1.0, 1.0)).sum((-1, -2))
        fallen = np.logical_not(np.isfinite(after.position).all(-1) & np.isfinite(after.velocity).all(-1))
        if self.healthy_height is not None:
            low, high = self.healthy_height
            height = after.position[:, 2]
            fallen |= ~((height >= low) & (height <= high))
        return Outcome(self.observe(after.position, after.velocity), reward, fallen, velocity)


@dataclasses.dataclass(frozen=True)
class State:
    """The physical state of B robots.

    Attributes:
        position: [B, nq], qpos.
        velocity: [B, nv], qvel.
    """

    position: Floats
    velocity: Floats


def _add_contact_sensors(spec: mujoco.MjSpec) -> None:
    """Adds a contact sensor to each body, and a sensor of the center of mass, about which torques are taken.

    `mujoco.rollout` returns states and sensors. Gymnasium's Ant reads `cfrc_ext`, which is neither.
    """
    for index, body in enumerate(spec.bodies[1:]):
        body.name = body.name or f"part_{index}"
        spec.add_sensor(
            name=f"contact_{body.name}",
            type=mujoco.mjtSensor.mjSENS_CONTACT,
            objtype=mujoco.mjtObj.mjOBJ_BODY,
            objname=body.name,
            intprm=[sum(1 << int(field) for field in _CONTACT_FIELDS), _NET_FORCE, 1],
        )
    spec.add_sensor(
        name="center_of_mass",
        type=mujoco.mjtSensor.mjSENS_SUBTREECOM,
        objtype=mujoco.mjtObj.mjOBJ_BODY,
        objname=spec.bodies[1].name,
    )


def contact_wrenches(sensors: Floats) -> Floats:
    """The contact torque and force on each body except the world: MuJoCo's ``cfrc_ext``, up to its sign.

    Args:
        sensors: [B, 9 · bodies + 3].

    Returns:
        [B, bodies, 6]: the torque about the robot's center of mass in N·m, then the force in N.
    """
    force, torque, point = np.moveaxis(sensors[:, :-3].reshape(len(sensors), -1, 3, 3), 2, 0)
    arm = point - sensors[:, None, -3:]
    return np.concatenate([torque + np.cross(arm, force), force], axis=-1)


HALF_CHEETAH: Final = Body("half_cheetah", unobserved=1, control_cost=0.05)
ANT: Final = Body(
    "ant",
    unobserved=2,
    control_cost=0.005,
    contact_cost=5e-4,
    bonus=0.05,
    velocity_bonus=1.0,
    healthy_height=(0.2, 1.0),
    camera_distance=4.5,
)
