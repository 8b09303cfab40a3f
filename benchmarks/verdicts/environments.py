"""Environments of the trials: tasks of the shipped meta-policies, inside and outside of their distributions."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Final

import mujoco
import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv

from thetaprime.training.tasks import resolve_tasks
from thetaprime.training.tasks.distributions import LocomotionTasks
from thetaprime.training.tasks.environments.locomotion import LocomotionVector
from thetaprime.training.tasks.environments.locomotion.bodies import Body
from thetaprime.training.tasks.environments.point_navigation import PointNavigationVector
from thetaprime.training.tasks.protocol import Task

Goal = float | tuple[float, float]
Alteration = tuple[str, float]

# Trials share the machine with other work; one thread makes their cost predictable.
_THREADS: Final = 1


ENDLESS: Final[tuple[Alteration, ...]] = (("endless", 1.0),)


class EndlessNavigation(PointNavigationVector):
    """Points that stay in their episode when they reach the goal."""

    def step(
        self, actions: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], dict[str, Any]]:
        """Moves every point."""
        observations, rewards, terminated, truncated, infos = super().step(actions)
        self._ended = truncated
        return observations, rewards, np.zeros_like(terminated), truncated, infos


def make_environment(
    meta_policy: str, goals: Sequence[Goal], body: tuple[Alteration, ...] = ()
) -> VectorEnv[Any, Any, Any]:
    """Makes one robot, or one point, for each goal.

    Args:
        meta_policy: name of a shipped meta-policy, whose environment it is.
        goals: one for each robot; they need not lie in the distribution's range.
        body: alterations of a robot's body, each a name and a number: ``mass`` and ``friction`` multiply, ``dead``
            disconnects the motor with that number. A point takes ``endless``: its episode goes on at the goal, so that
            all have one length.
    """
    distribution = resolve_tasks(meta_policy)
    if isinstance(distribution, LocomotionTasks):
        robot = _altered(distribution.body, body)
        return LocomotionVector(robot, distribution.kind, list(goals), len(goals), threads=_THREADS)
    if body not in ((), ENDLESS):
        raise ValueError(f"body: {body!r}; {meta_policy} takes endless alone")
    return (EndlessNavigation if body else PointNavigationVector)(list(goals), len(goals))


def alter(model: mujoco.MjModel, body: tuple[Alteration, ...]) -> None:
    """Alters the physics of a robot, in place.

    Raises:
        ValueError: an alteration is unknown.
    """
    for name, value in body:
        match name:
            case "mass":
                model.body_mass[:] *= value
                model.body_inertia[:] *= value
                mujoco.mj_setConst(model, mujoco.MjData(model))
            case "friction":
                model.geom_friction[:] *= value
            case "dead":
                model.actuator_gear[int(value)] = 0.0
            case _:
                raise ValueError(f"body: {name!r}; expected mass, friction or dead")


def goal_of(task: Task) -> Goal:
    """The goal of a task, as `make_environment` takes it."""
    goal = task["goal"]
    return (float(goal[0]), float(goal[1])) if isinstance(goal, (list, tuple)) else float(goal)


@functools.lru_cache(maxsize=64)
def _altered(body: Body, alterations: tuple[Alteration, ...]) -> Body:
    if not alterations:
        return body
    fields = {field.name: getattr(body, field.name) for field in dataclasses.fields(body)}
    altered = _AlteredBody(**fields)
    object.__setattr__(altered, "alterations", alterations)
    return altered


class _AlteredBody(Body):
    """A robot with another body, and the same observations, actions and reward."""

    alterations: tuple[Alteration, ...]

    @functools.cached_property
    def model(self) -> mujoco.MjModel:
        """The altered physics."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(Body)}
        model = Body(**fields).model
        alter(model, self.alterations)
        return model
