"""Families as a user would write them, for which nothing was tuned: plain Gymnasium environments and a task each."""

from typing import Any, ClassVar

import gymnasium
import numpy as np

from thetaprime.models import BoxAction, DiscreteAction, EnvironmentContract
from thetaprime.training import Task

Env = gymnasium.Env[Any, Any]


def _contract(
    environment_id: str, observations: int, action: BoxAction | DiscreteAction, horizon: int
) -> EnvironmentContract:
    return EnvironmentContract(
        environment_id=environment_id, observation_shape=(observations,), action=action, horizon=horizon
    )


class Pendulum:
    """Pendulums of unknown gravity (4 to 16 m/s²) and mass (0.5 to 1.5 kg)."""

    motors: ClassVar[tuple[float, ...]] = (1.0,)
    environment = _contract("Pendulum-v1", 3, BoxAction(low=(-2.0,), high=(2.0,)), 200)

    def sample_tasks(self, count: int, rng: np.random.Generator) -> list[Task]:
        """Draws gravity, mass and motor."""
        drawn = rng.uniform((4.0, 0.5), (16.0, 1.5), size=(count, 2))
        motors = rng.choice(self.motors, size=count)
        return [
            {"gravity": float(g), "mass": float(m), **({"motor": float(motor)} if len(self.motors) > 1 else {})}
            for (g, m), motor in zip(drawn, motors, strict=True)
        ]

    def make(self, task: Task) -> Env:
        """Makes the environment of one task."""
        env: Env = gymnasium.make("Pendulum-v1", disable_env_checker=True)
        if len(self.motors) > 1:
            env = _Motor(env)
        self.set_task(env, task)
        return env

    def set_task(self, env: Env, task: Task) -> None:
        """Changes gravity, mass and motor."""
        pendulum: Any = env.unwrapped
        pendulum.g, pendulum.m = task["gravity"], task["mass"]
        if isinstance(env, _Motor):
            env.factor = float(task["motor"])  # type: ignore[arg-type]


class PendulumMotor(Pendulum):
    """The same pendulums; the motors of half of them turn the other way."""

    motors: ClassVar[tuple[float, ...]] = (-1.0, 1.0)


class _Motor(gymnasium.ActionWrapper[Any, Any, Any]):
    """Multiplies actions by a factor."""

    factor = 1.0

    def action(self, action: Any) -> Any:
        """The action that acts."""
        return self.factor * action


class CartPole:
    """Poles of half-lengths 0.3 to 1 m, forces of 6 to 12 N, to the right or to the left."""

    environment = _contract("CartPole-v1", 4, DiscreteAction(count=2), 200)

    def sample_tasks(self, count: int, rng: np.random.Generator) -> list[Task]:
        """Draws lengths and signed forces."""
        lengths = rng.uniform(0.3, 1.0, size=count)
        forces = rng.uniform(6.0, 12.0, size=count) * rng.choice([-1.0, 1.0], size=count)
        return [{"length": float(length), "force": float(force)} for length, force in zip(lengths, forces, strict=True)]

    def make(self, task: Task) -> Env:
        """Makes the environment of one task."""
        env = gymnasium.make("CartPole-v1", max_episode_steps=200, disable_env_checker=True)
        self.set_task(env, task)
        return env

    def set_task(self, env: Env, task: Task) -> None:
        """Changes length and force, and what CartPole derives from them."""
        cart: Any = env.unwrapped
        cart.length, cart.force_mag = task["length"], task["force"]
        cart.polemass_length = cart.masspole * cart.length


class Acrobot:
    """Two links of unknown masses and lengths (0.7 to 1.4), whose motor turns either way."""

    environment = _contract("Acrobot-v1", 6, DiscreteAction(count=3), 300)
    _NAMES: ClassVar = ("LINK_MASS_1", "LINK_MASS_2", "LINK_LENGTH_1", "LINK_LENGTH_2")

    def sample_tasks(self, count: int, rng: np.random.Generator) -> list[Task]:
        """Draws masses, lengths and motor."""
        drawn, motors = rng.uniform(0.7, 1.4, size=(count, 4)), rng.choice([-1.0, 1.0], size=count)
        return [{"links": links.tolist(), "motor": float(motor)} for links, motor in zip(drawn, motors, strict=True)]

    def make(self, task: Task) -> Env:
        """Makes the environment of one task."""
        env = gymnasium.make("Acrobot-v1", max_episode_steps=300, disable_env_checker=True)
        self.set_task(env, task)
        return env

    def set_task(self, env: Env, task: Task) -> None:
        """Changes masses, lengths and motor."""
        acrobot: Any = env.unwrapped
        for name, value in zip(self._NAMES, task["links"], strict=True):  # type: ignore[arg-type]
            setattr(acrobot, name, value)
        acrobot.LINK_COM_POS_1, acrobot.LINK_COM_POS_2 = acrobot.LINK_LENGTH_1 / 2, acrobot.LINK_LENGTH_2 / 2
        acrobot.AVAIL_TORQUE = [-task["motor"], 0.0, task["motor"]]  # type: ignore[operator]


class InvertedDoublePendulum:
    """Two poles of unknown masses (× 0.6 to 1.6), on a cart whose motor is weak or strong and turns either way."""

    environment = _contract("InvertedDoublePendulum-v5", 9, BoxAction(low=(-1.0,), high=(1.0,)), 300)

    def sample_tasks(self, count: int, rng: np.random.Generator) -> list[Task]:
        """Draws masses and signed gains."""
        masses = rng.uniform(0.6, 1.6, size=(count, 2))
        gains = rng.uniform(0.7, 1.3, size=count) * rng.choice([-1.0, 1.0], size=count)
        return [{"masses": each.tolist(), "gain": float(gain)} for each, gain in zip(masses, gains, strict=True)]

    def make(self, task: Task) -> Env:
        """Makes the environment of one task."""
        env = gymnasium.make("InvertedDoublePendulum-v5", max_episode_steps=300, disable_env_checker=True)
        model: Any = env.unwrapped
        model.plain = model.model.body_mass.copy(), model.model.body_inertia.copy(), model.model.actuator_gear.copy()
        self.set_task(env, task)
        return env

    def set_task(self, env: Env, task: Task) -> None:
        """Changes masses, inertias and motor."""
        plain, model = env.unwrapped.plain, env.unwrapped.model  # type: ignore[attr-defined]
        model.body_mass[:], model.body_inertia[:], model.actuator_gear[:] = plain
        for body, factor in zip((2, 3), task["masses"], strict=True):  # type: ignore[arg-type]
            model.body_mass[body] *= factor
            model.body_inertia[body] *= factor
        model.actuator_gear[0, 0] *= task["gain"]
