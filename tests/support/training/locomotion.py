"""The four locomotion environments, and actions for them."""

from collections.abc import Callable
from typing import Any, Final

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st

from thetaprime.training.tasks.environments.locomotion import ANT, DIRECTION, HALF_CHEETAH, VELOCITY, Body, Goal

Floats = npt.NDArray[np.float64]
Actions = npt.NDArray[np.float32]

NAMES = {
    (HALF_CHEETAH.name, "velocity"): "HalfCheetahVelocity",
    (HALF_CHEETAH.name, "direction"): "HalfCheetahDirection",
    (ANT.name, "velocity"): "AntVelocity",
    (ANT.name, "direction"): "AntDirection",
}
every_kind = pytest.mark.parametrize(
    ("body", "kind"),
    [(body, kind) for body in (HALF_CHEETAH, ANT) for kind in (VELOCITY, DIRECTION)],
    ids=NAMES.values(),
)
every_body = pytest.mark.parametrize("body", [HALF_CHEETAH, ANT], ids=lambda body: body.name)
HOWS: Final = ("random", "extreme", "zero")
a_seed = st.integers(0, 2**31 - 1)
# An example takes seconds of physics, and no seed is simpler than another: no shrinking.
few = settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])


def make(body: Body, kind: Goal, goal: float | None = None, **options: Any) -> gymnasium.Env[Any, Any]:
    # Without Gymnasium's passive checker: the tests call `check_env`.
    name = f"thetaprime/{NAMES[body.name, kind.name]}-v0"
    return gymnasium.make(name, goal=goal, disable_env_checker=True, **options)


def some_goals(kind: Goal, count: int, rng: np.random.Generator) -> list[float]:
    drawn = rng.uniform(0.0, 3.0, count) if kind is VELOCITY else rng.choice([-1.0, 1.0], count)
    return [float(goal) for goal in drawn]


def draw_actions(how: str, size: tuple[int, ...], rng: np.random.Generator) -> Actions:
    draws: dict[str, Callable[[], Floats]] = {
        "random": lambda: rng.uniform(-1.0, 1.0, size),
        "extreme": lambda: rng.choice([-1e3, -5.0, -1.0, 1.0, 1.5, 40.0], size),
        "zero": lambda: np.zeros(size),
    }
    return draws[how]().astype(np.float32)
