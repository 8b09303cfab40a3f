"""The Node example and ThetaPrime compute equal results."""

from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import thetaprime.training
from thetaprime import wire
from thetaprime.v1 import trajectory_pb2 as pb

if TYPE_CHECKING:
    from tests.support.node import Node, Talk

gymnasium.register_envs(thetaprime.training)

Array = npt.NDArray[Any]
FLOATS: st.SearchStrategy[np.dtype[Any]] = st.sampled_from([np.dtype("<f4"), np.dtype("<f8")])
INTEGERS: st.SearchStrategy[np.dtype[Any]] = st.sampled_from([np.dtype("<i4"), np.dtype("<i8")])


def test_the_examples_own_tests_pass(node: "Node") -> None:
    run = node.run("--test", "test/")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "# fail 0" in run.stdout and "# pass 0" not in run.stdout


@st.composite
def _trajectories(draw: st.DrawFn) -> wire.Trajectory:
    steps = draw(st.integers(0, 40))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=3))
    discrete = draw(st.booleans())
    actions = hnp.arrays(INTEGERS, (steps,)) if discrete else hnp.arrays(FLOATS, (steps, draw(st.integers(0, 3))))
    return wire.Trajectory(
        observations=draw(hnp.arrays(FLOATS, (steps, *shape))),
        actions=draw(actions),
        rewards=draw(hnp.arrays(FLOATS, (steps,))),
        terminated=draw(st.booleans()),
        truncated=draw(st.booleans()),
        final_observation=draw(hnp.arrays(FLOATS, shape)),
        policy_id=draw(st.text(st.characters(codec="utf-8"), max_size=200)),
    )


def _as_bytes(array: Array) -> dict[str, Any]:
    message = wire.array_to_message(array)
    name = pb.DataType.Name(message.data_type)
    return {"dataType": name, "shape": list(message.shape), "data": message.data.hex()}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(trajectories=st.lists(_trajectories(), max_size=3))
def test_equal_trajectories_give_equal_payloads(trajectories: list[wire.Trajectory], talk: "Talk") -> None:
    asked = [
        {
            "policyId": each.policy_id,
            "observations": _as_bytes(each.observations),
            "actions": _as_bytes(each.actions),
            "rewards": _as_bytes(each.rewards),
            "terminated": each.terminated,
            "truncated": each.truncated,
            "finalObservation": _as_bytes(each.final_observation),
        }
        for each in trajectories
    ]
    payload = wire.pack(trajectories)
    assert talk.ask("pack", trajectories=asked) == {"payload": payload.hex(), "sha256": wire.sha256_hex(payload)}


@pytest.mark.parametrize("goal", [(0.4, -0.3), (0.0, 0.05), (-0.5, 0.5)])
def test_the_simulator_equals_the_environment_to_the_bit(goal: tuple[float, float], talk: "Talk") -> None:
    toward = np.asarray(goal) / 8
    actions = np.random.default_rng(0).normal(toward, 0.05, size=(100, 2)).astype(np.float32)
    answer = talk.ask("simulate", goal=goal, actions=actions.tolist())
    env = gymnasium.make("thetaprime/PointNavigation-v0", goal=goal, disable_env_checker=True).unwrapped
    observation, _ = env.reset()
    assert answer["first"] == observation.tolist()
    for action, step in zip(actions, answer["steps"], strict=True):
        observation, reward, terminated, _, _ = env.step(action)
        assert step == {"observation": observation.tolist(), "reward": reward, "terminated": terminated}
