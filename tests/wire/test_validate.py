import dataclasses
from typing import Any

import numpy as np
import pytest

from thetaprime.wire import ActionKind, EnvironmentContract, Trajectory, WireError, validate

BOX = EnvironmentContract("box", (2,), ActionKind.BOX, 1, (-1.0,), (1.0,), horizon=5)
DISCRETE = EnvironmentContract("discrete", (2,), ActionKind.DISCRETE, 3, horizon=5)


def _trajectory(**changes: Any) -> Trajectory:
    base = Trajectory(
        observations=np.zeros((4, 2), np.float32),
        actions=np.zeros((4, 1), np.float32),
        rewards=np.zeros(4),
        terminated=True,
        truncated=False,
        final_observation=np.zeros(2, np.float32),
        policy_id="p",
    )
    return dataclasses.replace(base, **changes)


def _with(shape: tuple[int, ...], index: tuple[int, ...], value: float, dtype: Any = np.float32) -> Any:
    array = np.zeros(shape, dtype)
    array[index] = value
    return array


def test_whole_episodes_pass() -> None:
    validate(_trajectory(), BOX)
    discrete = _trajectory(actions=np.array([0, 1, 2, 0]))
    validate(discrete, DISCRETE)
    # Each is refused by the other's contract.
    for trajectory, other in ((_trajectory(), DISCRETE), (discrete, BOX)):
        with pytest.raises(WireError, match="actions"):
            validate(trajectory, other)


@pytest.mark.parametrize(
    ("changes", "contract", "field", "problem"),
    [
        ({"observations": np.zeros((4, 3), np.float32)}, BOX, "t.observations", r"shape \[4, 3\]; expected \[4, 2\]"),
        ({"observations": np.zeros((3, 2), np.float32)}, BOX, "t.observations", r"shape \[3, 2\]; expected \[4, 2\]"),
        ({"observations": np.zeros((4, 2), np.int64)}, BOX, "t.observations", "dtype int64"),
        ({"observations": _with((4, 2), (2, 1), np.nan)}, BOX, "t.observations[2][1]", "nan is not a finite"),
        (
            {"observations": _with((4, 2), (0, 0), 1e300, np.float64)},
            BOX,
            "t.observations[0][0]",
            "not a finite float32",
        ),
        ({"actions": _with((4, 1), (3, 0), -np.inf)}, BOX, "t.actions[3][0]", "-inf is not a finite"),
        ({"actions": np.zeros(4, np.float32)}, BOX, "t.actions", r"shape \[4\]; expected \[4, 1\]"),
        ({"actions": np.zeros((4, 1), np.int64)}, BOX, "t.actions", "dtype int64; expected float32 or float64"),
        ({"actions": np.array([0, 3, 0, 0])}, DISCRETE, "t.actions[1]", r"action 3; expected 0\.\.2"),
        ({"actions": np.array([0, 0, 0, -1])}, DISCRETE, "t.actions[3]", "action -1"),
        ({"actions": np.zeros(4, np.float32)}, DISCRETE, "t.actions", "dtype float32; expected int32 or int64"),
        ({"rewards": _with((4,), (1,), np.inf)}, BOX, "t.rewards[1]", "inf is not a finite"),
        ({"rewards": np.zeros((4, 1))}, BOX, "t.rewards", "shape"),
        ({"rewards": np.zeros(0)}, BOX, "t.rewards", "no steps"),
        ({"rewards": np.zeros(6)}, BOX, "t.rewards", "6 steps; the horizon is 5"),
        ({"final_observation": _with((2,), (1,), np.nan)}, BOX, "t.final_observation[1]", "nan"),
        ({"final_observation": np.zeros(3, np.float32)}, BOX, "t.final_observation", r"shape \[3\]"),
        ({"terminated": False}, BOX, "t.truncated", "neither terminated nor truncated"),
    ],
)
def test_an_error_names_the_invalid_step(
    changes: dict[str, Any], contract: EnvironmentContract, field: str, problem: str
) -> None:
    with pytest.raises(WireError, match=problem) as caught:
        validate(_trajectory(**changes), contract, "t")
    assert caught.value.field == field
