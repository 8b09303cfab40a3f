"""A policy with a memory acts as torch does: in its own memory, in the caller's, over resets and swaps."""

import dataclasses
import functools
import json
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import thetaprime.client as tp
from tests.support.artifacts import write_untrained
from tests.support.contracts import CONTRACTS
from tests.support.models.memory_cases import CASES, ROBOTS, MemoryCase, live
from tests.support.models.policy_cases import CASES as FORGETFUL
from thetaprime.models import (
    MemorySpec,
    MetaPolicy,
    PolicySpec,
    derive_form,
)

Array = npt.NDArray[Any]
EVERY = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
# Loaded once: a test that changes what it remembers begins with a reset.
POLICIES = {name: tp.AdaptedPolicy(case.onnx, seed=0) for name, case in CASES.items()}


@pytest.fixture
def gru() -> tp.AdaptedPolicy:
    return tp.AdaptedPolicy(CASES["gru"].onnx, seed=0)


def shaped(case: MemoryCase, observations: Array) -> Array:
    return observations.reshape(len(observations), *case.policy.environment.observation_shape)


def remembering_theta(root: Path, name: str = "pendulum", cell: Any = "gru", **more: Any) -> MetaPolicy:
    spec = PolicySpec(hidden_sizes=(8,), memory=MemorySpec(cell=cell, size=6, reward_scale=0.1))
    return write_untrained(root, f"{name}-{cell}", CONTRACTS[name], spec=spec, **more)


@EVERY
@pytest.mark.parametrize("batch", [1, ROBOTS])
def test_act_equals_torch_over_whole_lifetimes(case: MemoryCase, batch: int) -> None:
    policy, lived = POLICIES[case.name], live(case)
    policy.reset()
    policy.state = None
    for step, begins in enumerate(lived.resets[:, :batch]):
        inputs = {name: rows[step, :batch] for name, rows in lived.inputs.items()}
        if step:
            policy.observe(inputs["prev_reward"], inputs["prev_done"] > 0, action=inputs["prev_action"])
            policy.reset(np.flatnonzero(begins))
        np.testing.assert_allclose(
            policy.act(shaped(case, inputs["obs"])), lived.actions[step, :batch], rtol=1e-4, atol=1e-4
        )


@EVERY
def test_act_on_one_observation_feeds_its_own_action_back(case: MemoryCase) -> None:
    policy, lived = POLICIES[case.name], live(case)
    policy.state = None
    for step, begins in enumerate(lived.resets[:, 0]):
        if step:
            policy.observe(lived.inputs["prev_reward"][step, 0], bool(lived.inputs["prev_done"][step, 0]))
        if begins:
            policy.reset()
        action = policy.act(shaped(case, lived.inputs["obs"][step])[0])
        np.testing.assert_allclose(action, lived.actions[step, 0], rtol=1e-4, atol=1e-4)
        assert np.shape(action) == lived.actions.shape[2:]


@EVERY
def test_predict_equals_torch_with_the_state_of_the_caller(case: MemoryCase) -> None:
    policy, lived = POLICIES[case.name], live(case)
    policy.reset()
    before = policy.state
    state: tp.PolicyState | None = None
    for step, begins in enumerate(lived.resets):
        if state is not None:
            state = state.reset(begins)
        reward = lived.inputs["prev_reward"][step] if step else None
        done = lived.inputs["prev_done"][step] > 0
        observation = shaped(case, lived.inputs["obs"][step])
        action, state = policy.predict(observation, state, done, reward=reward)
        np.testing.assert_allclose(action, lived.actions[step], rtol=1e-4, atol=1e-4)
    assert state is not None
    assert len(state) == ROBOTS
    after = policy.state
    assert (before is None) == (after is None)
    if before is not None and after is not None:  # predict changes nothing
        assert all(np.array_equal(rows, after.tensors[name]) for name, rows in before.tensors.items())


STEP = st.fixed_dictionaries(
    {
        "obs": st.integers(0, 9),
        "reward": st.floats(-5, 5, width=32),
        "done": st.lists(st.booleans(), min_size=3, max_size=3),
        "reset": st.lists(st.integers(0, 2), max_size=3),
        "early": st.booleans(),
        "detour": st.booleans(),
    }
)


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(sorted(CASES)), steps=st.lists(STEP, min_size=1, max_size=8))
def test_act_and_predict_agree_and_robots_do_not_disturb_each_other(name: str, steps: list[dict[str, Any]]) -> None:
    """Three ways to the same actions: act on a batch, predict on a batch, and act on each robot alone."""
    case, batch = CASES[name], POLICIES[name]
    batch.state = None
    states: list[tp.PolicyState | None] = [None] * ROBOTS
    state: tp.PolicyState | None = None
    pool = np.random.default_rng(2).normal(size=(10, ROBOTS, case.policy.environment.observation_size))
    for step in steps:
        observations = shaped(case, pool[step["obs"]].astype(np.float32))
        if step["detour"]:
            batch.state = batch.state  # a copy of the memory is the memory
        acted = batch.act(observations)
        predicted, state = batch.predict(observations, state)
        np.testing.assert_array_equal(acted, predicted)
        for robot in range(ROBOTS):
            single, states[robot] = batch.predict(observations[robot], states[robot])
            np.testing.assert_allclose(single, acted[robot], rtol=1e-5, atol=1e-6)
        rewards = np.float32(step["reward"]) + np.arange(ROBOTS, dtype=np.float32)
        done = np.array(step["done"])
        if step["early"]:  # a reset before the outcome, which then belongs to the old lifetime
            batch.reset(step["reset"])
        batch.observe(rewards, done)
        batch.reset(step["reset"])
        assert state is not None
        state = state.observe(rewards, done).reset(step["reset"])
        for robot, each in enumerate(states):
            assert each is not None
            each = each.observe(rewards[robot], bool(done[robot]))
            states[robot] = each.reset() if robot in step["reset"] else each


@EVERY
def test_samples_are_fed_back_as_the_environment_takes_them(case: MemoryCase) -> None:
    policy = POLICIES[case.name]
    policy.state = None
    observation = shaped(case, live(case).inputs["obs"][0])
    state: tp.PolicyState | None = None
    for _ in range(5):
        taken, recorded = policy.sample(observation, rng=np.random.default_rng(1))
        again, recorded_again, state = policy.sample_step(observation, state, rng=np.random.default_rng(1))
        np.testing.assert_array_equal(taken, again)
        np.testing.assert_array_equal(recorded, recorded_again)
        np.testing.assert_array_equal(state.action, taken)
        policy.observe(np.ones(ROBOTS))
        state = state.observe(np.ones(ROBOTS))


def test_a_policy_without_a_memory_takes_the_same_loop() -> None:
    policy = tp.AdaptedPolicy(FORGETFUL["bounded"].onnx)
    policy.reset()
    first = policy.act(np.ones(5))
    policy.observe(1.0, False)
    policy.reset(where=[0])
    np.testing.assert_array_equal(policy.act(np.ones(5)), first)
    assert policy.memory is None
    assert policy.state is None
    assert policy.predict(np.ones(5), "anything")[1] == "anything"
    for call in (lambda: policy.begin(1), lambda: policy.sample_step(np.ones(5), None)):
        with pytest.raises(tp.InvalidInputError, match="state: bounded@1 has no memory; expected a policy with one"):
            call()


def test_the_memory_is_described(gru: tp.AdaptedPolicy) -> None:
    memory = gru.memory
    assert memory is not None
    assert (memory.cell, memory.layers, memory.size, memory.reset) == ("gru", 1, 16, "lifetime")
    assert memory.states[0].shape(3) == (1, 3, 16)
    assert "Keep the state at the end of an episode" in memory.rule


def observation(count: int | None = None) -> Array:
    return np.full((5,) if count is None else (count, 5), 0.5, np.float32)


def acted(policy: tp.AdaptedPolicy, count: int | None = None) -> tp.AdaptedPolicy:
    policy.act(observation(count))
    return policy


def observed(policy: tp.AdaptedPolicy, reward: npt.ArrayLike = 1.0) -> tp.AdaptedPolicy:
    policy.observe(reward)
    return policy


def state_of(policy: tp.AdaptedPolicy, **changes: Any) -> tp.PolicyState:
    state = policy.begin(2)
    return dataclasses.replace(state, **changes)


BAD: dict[str, tuple[Callable[[tp.AdaptedPolicy], object], str]] = {
    "an outcome is missing": (lambda p: acted(acted(p)), "needs the outcome of its last action: call observe"),
    "an outcome before an action": (lambda p: p.observe(1.0), "observe: the policy has not acted yet"),
    "an outcome twice": (
        lambda p: observed(observed(acted(p))),
        "observe: the outcome of the last action is known",
    ),
    "another number of robots": (
        lambda p: observed(acted(p, 3), np.ones(3)).act(observation(4)),
        r"obs: of 4 robots; the policy remembers 3: call reset\(\) to begin new lifetimes",
    ),
    "no robots": (lambda p: p.act(observation(0)), r"obs: shape \[0, 5\]; expected \[5\] or \[B, 5\]"),
    "an observation of another shape": (lambda p: p.act(np.ones((2, 4))), r"obs: shape \[2, 4\]; expected"),
    "an observation of a texts": (lambda p: p.act(np.array(["a"] * 5)), "obs: dtype <U1; expected real numbers"),
    "an observation that is not finite": (lambda p: p.act([0, 1, np.nan, 0, 0]), r"obs\[2\]: not a finite float32"),
    "a reward for other robots": (
        lambda p: acted(p, 3).observe(np.ones(2)),
        r"reward: shape \[2\]; expected \[3\] for 3 robots",
    ),
    "a reward that is not finite": (lambda p: acted(p, 2).observe([0.0, np.inf]), r"reward\[1\]: inf; expected a fini"),
    "a reward of texts": (lambda p: acted(p).observe("1"), "reward: dtype <U1; expected numbers"),
    "an end that is no flag": (lambda p: acted(p).observe(1.0, 1.0), "terminated: dtype float64; expected booleans"),
    "an end for other robots": (
        lambda p: acted(p, 2).observe([1.0, 1.0], truncated=[True]),
        r"truncated: shape \[1\]; expected \[2\] for 2 robots",
    ),
    "an action of another shape": (
        lambda p: acted(p).observe(1.0, action=[1.0]),
        r"action: shape \[1\]; expected",
    ),
    "an action that is not finite": (lambda p: acted(p).observe(1.0, action=[1, 2, np.nan]), "action: not finite"),
    "a reset beyond the robots": (
        lambda p: acted(p, 3).reset(where=[3]),
        r"where: int64 \[1\]; expected a mask of shape \[3\], or indices from 0 to 2",
    ),
    "a reset with the mask of other robots": (
        lambda p: acted(p, 3).reset([True]),
        r"where: bool \[1\]; exp",
    ),
    "a reset of negative robots": (lambda p: acted(p, 3).reset(-1), r"where: int64 \[\]; expected a mask"),
    "a state of Stable-Baselines3": (
        lambda p: p.predict(observation(2), (np.zeros((1, 2, 16)),)),
        "state: tuple; expected None, or the PolicyState that predict returned",
    ),
    "a state of another policy": (
        lambda p: p.predict(observation(2), state_of(p, policy_id="0" * 64)),
        r"state: of policy 000000000000… of gru@1; expected one of .*AdaptedPolicy\.carry",
    ),
    "a state of other robots": (
        lambda p: p.predict(observation(3), p.begin(2)),
        "state: of 2 robots; the observations are of 3",
    ),
    "a state of another shape": (
        lambda p: p.predict(observation(2), state_of(p, tensors={"h_in": np.zeros((1, 2, 8), np.float32)})),
        r"state\.tensors\['h_in'\]: float32 \[1, 2, 8\]; expected float32 \[1, 2, 16\]",
    ),
    "a state of another dtype": (
        lambda p: p.predict(observation(2), state_of(p, tensors={"h_in": np.zeros((1, 2, 16))})),
        r"state\.tensors\['h_in'\]: float64 \[1, 2, 16\]; expected float32 \[1, 2, 16\]",
    ),
    "a state of another cell": (
        lambda p: p.predict(observation(2), state_of(p, tensors={"c_in": np.zeros((1, 2, 16), np.float32)})),
        r"state\.tensors: \['c_in'\]; expected \['h_in'\]",
    ),
    "a state that is not finite": (
        lambda p: p.predict(observation(2), state_of(p, tensors={"h_in": np.full((1, 2, 16), np.nan, np.float32)})),
        r"state\.tensors\['h_in'\]: a number that is not finite",
    ),
    "a previous action of another dtype": (
        lambda p: p.predict(observation(2), state_of(p, action=np.zeros((2, 3)))),
        r"state\.action: float64 \[2, 3\]; expected float32 \[2, 3\]",
    ),
    "a state without its rewards": (
        lambda p: p.predict(observation(2), p.predict(observation(2))[1]),
        r"reward: missing for robots \[0, 1\]; expected the rewards of their last actions",
    ),
    "an episode's start for other robots": (
        lambda p: p.predict(observation(2), p.begin(2), [True]),
        r"episode_start: shape \[1\]; expected \[2\]",
    ),
    "the state of another meta-policy": (
        lambda p: p.carry(POLICIES["lstm"].begin(1)),
        "state: of lstm@1; expected a state of gru@1, this policy's own",
    ),
    "a state to set that is none": (
        lambda p: setattr(p, "state", "h"),
        "state: str; expected None",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case: str, gru: tp.AdaptedPolicy) -> None:
    call, problem = BAD[case]
    with pytest.raises(tp.InvalidInputError, match=problem):
        call(gru)


def test_a_refused_observation_changes_nothing(gru: tp.AdaptedPolicy) -> None:
    expected = tp.AdaptedPolicy(gru.onnx)
    for policy in (gru, expected):
        acted(policy).observe(0.5)
    with pytest.raises(tp.InvalidInputError):
        gru.act([np.nan] * 5)
    np.testing.assert_array_equal(gru.act(observation()), expected.act(observation()))


def test_a_reset_forgets_and_takes_any_number_of_robots(gru: tp.AdaptedPolicy) -> None:
    first = gru.act(observation(3))
    gru.observe(np.ones(3))
    assert (gru.act(observation(3)) != first).any()
    gru.reset()
    np.testing.assert_array_equal(gru.act(observation(3)), first)
    gru.reset()
    np.testing.assert_array_equal(gru.act(observation()), first[0])


def test_a_saved_state_is_taken_up_again(gru: tp.AdaptedPolicy) -> None:
    acted(gru).observe(0.5)
    state, expected = gru.state, gru.act(observation())
    other = tp.AdaptedPolicy(gru.onnx)
    other.state = state
    np.testing.assert_array_equal(other.act(observation()), expected)
    waiting = gru.state
    assert waiting is not None
    assert np.isnan(waiting.reward).all()
    np.testing.assert_array_equal(waiting.action[0], expected)
    other.state = waiting
    with pytest.raises(tp.InvalidInputError, match="needs the outcome"):
        other.act(observation())
    other.state = None
    assert other.state is None


def test_a_state_does_not_change_after_it_was_taken(gru: tp.AdaptedPolicy) -> None:
    acted(gru).observe(0.5)
    state = gru.state
    assert state is not None
    kept = state.tensors["h_in"].copy()
    acted(gru).observe(0.5)
    acted(gru)
    np.testing.assert_array_equal(state.tensors["h_in"], kept)


def test_an_episode_without_an_end_is_noticed_once(gru: tp.AdaptedPolicy) -> None:
    for _ in range(40):
        acted(gru).observe(0.0)
    acted(gru)
    with pytest.warns(tp.MemoryWarning, match=r"robot 0 has acted for 41 steps without the end of an"):
        gru.observe(0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(100):
            acted(gru).observe(0.0)


def test_an_episode_without_an_end_is_an_error_in_strict_mode() -> None:
    strict = tp.AdaptedPolicy(CASES["gru"].onnx, strict=True)
    for step in range(100):  # with ends, two episodes and a half
        acted(strict, 2).observe(np.zeros(2), truncated=[step % 40 == 39] * 2)
    strict.reset()
    for _ in range(40):
        acted(strict, 2).observe(np.zeros(2))
    acted(strict, 2)
    with pytest.raises(tp.InvalidInputError, match="give terminated and truncated to observe"):
        strict.observe(np.zeros(2))


def test_a_new_task_without_a_reset_is_noticed(gru: tp.AdaptedPolicy) -> None:
    acted(gru, 3).observe(np.zeros(3), info={"new_task": np.array([False, True, True])})
    gru.reset(where=[2])
    with pytest.warns(tp.MemoryWarning, match=r"robots \[1\] act on with the memory of another life") as found:
        gru.act(observation(3))
    assert [each.filename for each in found] == [__file__]
    strict = tp.AdaptedPolicy(gru.onnx, strict=True)
    acted(strict).observe(0.0, True, info={"new_task": True})
    for _ in range(2):
        with pytest.raises(tp.InvalidInputError, match=r"robots \[0\] act on with the memory of another lifetime"):
            strict.act(observation())
    strict.reset()
    acted(strict).observe(0.0, info={"other": 1, "new_task": np.array([True]), "_new_task": np.array([False])})
    strict.act(observation())


def edited(onnx_bytes: bytes, **changes: Any) -> bytes:
    """The file with other metadata: of its memory, or whole entries."""
    model = onnx.ModelProto.FromString(onnx_bytes)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    entries = {key: value for key, value in changes.items() if key in ("golden", "contract_version")}
    memory = {**json.loads(metadata["thetaprime.memory"]), **{k: v for k, v in changes.items() if k not in entries}}
    metadata |= {"thetaprime.memory": json.dumps(memory)} | {f"thetaprime.{k}": v for k, v in entries.items()}
    onnx.helper.set_model_props(model, metadata)
    return model.SerializeToString()


def test_a_file_may_reset_its_memory_at_each_episode() -> None:
    policy = tp.AdaptedPolicy(edited(CASES["gru"].onnx, reset="episode"), strict=True)
    first, state = policy.predict(observation(2))
    second, state = policy.predict(observation(2), state, [True, False], reward=np.ones(2))
    np.testing.assert_array_equal(second[0], first[0])
    assert (second[1] != first[1]).any()
    acted(policy).observe(1.0, True)
    with pytest.raises(tp.InvalidInputError, match="an episode has ended, and each episode is a lifetime"):
        policy.act(observation())


INITIAL = json.loads(CASES["gru"].exported.metadata["thetaprime.memory"])["states"][0]
ALTERED: dict[str, tuple[dict[str, Any], str]] = {
    "another initial state": (
        {"states": [{**INITIAL, "initial": (np.array(INITIAL["initial"]) + 0.1).tolist()}]},
        "the graph's h_initial is not the initial state that thetaprime",
    ),
    "an initial state that is not finite": (
        {"states": [{**INITIAL, "initial": [[float("nan")] * 16]}]},
        r"thetaprime\.memory is malformed: .*not finite",
    ),
    "a shorter state": (
        {"states": [{**INITIAL, "initial": [[0.0] * 8]}]},
        r"graph's input 'h_in' is .* 16\]; exp",
    ),
    "another axis": ({"states": [{**INITIAL, "axis": 0}]}, r"graph's input 'h_in' is .*thetaprime\.memory says"),
    "an axis beyond": ({"states": [{**INITIAL, "axis": 9}]}, r"thetaprime\.memory is malformed: .*axis 9"),
    "no state": ({"states": []}, r"thetaprime\.memory is malformed: .*0 states; expected 1 to 8"),
    "many states": ({"states": [INITIAL] * 9}, r"thetaprime\.memory is malformed: .*9 states"),
    "another tensor": ({"states": [{**INITIAL, "output": "h_new"}]}, "the graph lacks the output 'h_new'"),
    "another cell": ({"cell": "x" * 10_000}, r"thetaprime\.memory is malformed: .*cell 'x{20}'"),
    "no start": ({"start": {}}, r"thetaprime\.memory is malformed"),
    "another start": ({"start": {"prev_action": [0.1] * 3, "prev_reward": 0, "prev_done": 0}}, "fails its golden vec"),
    "an endless start": (
        {"start": {"prev_action": [1e60] * 3, "prev_reward": 0, "prev_done": 0}},
        r"thetaprime\.memory is malformed: .*start is not finite",
    ),
    "version 1": ({"contract_version": "1"}, r"thetaprime\.golden is malformed"),
    "golden vectors of version 1": (
        {"golden": json.dumps({"observations": [[0] * 5], "actions": [[0] * 3]})},
        r"thetaprime\.golden is malformed",
    ),
    "no golden sequence": (
        {"golden": json.dumps({"inputs": {}, "resets": [], "outputs": {}})},
        r"thetaprime\.golden is malformed: .*expected K sequences",
    ),
    "a sequence without a beginning": (
        {"golden": json.dumps({"inputs": {}, "resets": [[False]], "outputs": {"actions": [[[0, 0, 0]]]}})},
        r"thetaprime\.golden is malformed: .*sequences that begin with true",
    ),
    "endless sequences": (
        {"golden": json.dumps({"inputs": {}, "resets": [[True] * 2000], "outputs": {"actions": [[0.5] * 2000]}})},
        r"thetaprime\.golden has 2000 vectors; expected at most 1024",
    ),
}


@pytest.mark.parametrize("case", ALTERED)
def test_an_altered_file_is_refused(case: str) -> None:
    changes, problem = ALTERED[case]
    with pytest.raises(tp.PolicyVerificationError, match=problem):
        tp.AdaptedPolicy(edited(CASES["gru"].onnx, **changes))


@EVERY
@pytest.mark.parametrize("weight", ["theta.memory.weight_hh", "theta.memory.initial", "theta.layers.0.weight"])
def test_altered_weights_fail_the_golden_sequences(case: MemoryCase, weight: str) -> None:
    model = onnx.ModelProto.FromString(case.onnx)
    (tensor,) = (each for each in model.graph.initializer if each.name == weight)
    tensor.raw_data = (numpy_helper.to_array(tensor) + np.float32(0.01)).tobytes()
    if weight == "theta.memory.initial":  # the graph does not read it: what the file says of it must agree
        with pytest.raises(tp.PolicyVerificationError, match="h_initial"):
            tp.AdaptedPolicy(model.SerializeToString())
        return
    with pytest.raises(tp.PolicyVerificationError, match="fails its golden vectors"):
        tp.AdaptedPolicy(model.SerializeToString())


@pytest.mark.parametrize("profile", ["default", "epsilon", "unity-mlagents", "robot"])
def test_a_file_of_each_profile_is_tried_over_its_sequences(profile: str) -> None:
    case = CASES["lstm"]
    form = derive_form(case.onnx, profile, case.robot if profile == "robot" else None)
    file = tp.PolicyFile(form.onnx)
    assert file.memory is not None
    assert file.memory.cell == "lstm"
    assert all(tensor.what for tensor in file.tensors) or profile == "default"
    golden = json.loads(form.metadata["thetaprime.golden"])
    (name, *_) = golden["outputs"]
    golden["outputs"][name][1][4][0] += 1e-3  # after the reset in the middle of the second sequence
    with pytest.raises(tp.PolicyVerificationError, match="fails its golden vectors"):
        tp.PolicyFile(edited(form.onnx, golden=json.dumps(golden)))


def test_a_memory_of_another_engine_does_not_act(gru: tp.AdaptedPolicy) -> None:
    with pytest.raises(tp.PolicyVerificationError, match="the file has profile 'epsilon', for another engine"):
        tp.AdaptedPolicy(derive_form(gru.onnx, "epsilon").onnx)


def test_threads_predict_without_disturbing_the_memory(gru: tp.AdaptedPolicy) -> None:
    acted(gru).observe(0.5)
    expected = tp.AdaptedPolicy(gru.onnx)
    expected.state = gru.state
    wanted, _ = gru.predict(observation(8))
    found: list[Array] = []
    threads = [
        threading.Thread(target=lambda: found.extend(gru.predict(observation(8))[0] for _ in range(50)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    actions = []
    for _ in range(30):
        actions.append((gru.act(observation()), expected.act(observation())))
        gru.observe(0.1)
        expected.observe(0.1)
    for thread in threads:
        thread.join()
    assert len(found) == 200
    assert all(np.array_equal(each, wanted) for each in found)
    assert all(np.array_equal(one, other) for one, other in actions)


# What becomes of the memory where a policy is replaced.


def successors(meta_policy: MetaPolicy, count: int) -> list[bytes]:
    """θ and some θ′."""
    found, parent = [], ""
    for index in range(count):
        moved = {name: value + 0.01 * index for name, value in meta_policy.parameters.items()}
        exported = meta_policy.export(moved, parent)
        found.append(exported.onnx)
        parent = exported.policy_id
    return found


def test_a_replacement_goes_on_with_the_memory(tmp_path: Path) -> None:
    theta, adapted = successors(remembering_theta(tmp_path), 2)
    expected, state = tp.AdaptedPolicy(theta).predict(np.ones(3))
    with tp.PolicyRunner(tp.AdaptedPolicy(theta)) as runner:
        assert runner.swap is None
        np.testing.assert_array_equal(runner.act(np.ones(3)), expected)
        new = runner.replace(adapted).result(60)
        runner.observe(0.5)  # of the action of the old policy
        assert runner.swap is None
        found = runner.act(np.ones(3))
        expected, _ = new.predict(np.ones(3), new.carry(state), reward=0.5)
        np.testing.assert_array_equal(found, expected)
        assert runner.swap == tp.PolicySwap(new.parent_id, new.policy_id, "carried")
        # A caller that keeps the state sees the same.
        found, _ = runner.predict(np.ones(3), state, reward=0.5)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("other", "memory", "reason"),
    [
        ({"cell": "lstm"}, "carry", "the old policy is of pendulum-gru@1, the new one of pendulum-lstm@1"),
        ({"version": 2}, "carry", "the old policy is of pendulum-gru@1, the new one of pendulum-gru@2"),
        ({}, "reset", "replace was called with memory='reset'"),
    ],
)
def test_a_replacement_that_cannot_go_on_begins_anew_and_says_why(
    other: dict[str, Any], memory: Any, reason: str, tmp_path: Path
) -> None:
    theta = remembering_theta(tmp_path)
    new = remembering_theta(tmp_path, **other) if other else theta
    onnx_bytes = successors(new, 2)[1]
    with tp.PolicyRunner(tp.AdaptedPolicy(successors(theta, 1)[0])) as runner:
        runner.act(np.ones(3))
        runner.observe(0.5)
        loaded = runner.replace(onnx_bytes, memory=memory).result(60)
        np.testing.assert_array_equal(runner.act(np.ones(3)), tp.AdaptedPolicy(onnx_bytes).act(np.ones(3)))
        assert runner.swap is not None
        assert (runner.swap.memory, runner.swap.reason, runner.swap.after) == ("reset", reason, loaded.policy_id)


def test_a_replacement_that_must_carry_is_refused(tmp_path: Path) -> None:
    theta, lstm = remembering_theta(tmp_path), remembering_theta(tmp_path, cell="lstm")
    plain = write_untrained(tmp_path, "plain", CONTRACTS["pendulum"])
    with tp.PolicyRunner(tp.AdaptedPolicy(successors(theta, 1)[0])) as runner:
        for new, problem in ((lstm, "the new one of pendulum-lstm@1"), (plain, "plain@1 has no memory")):
            with pytest.raises(tp.PolicyVerificationError, match=f"cannot take over the memory: .*{problem}"):
                runner.replace(successors(new, 1)[0], memory="must-carry").result(60)
        with pytest.raises(tp.InvalidInputError, match="memory: 'drop'; expected 'carry', 'reset' or 'must-carry'"):
            runner.replace(successors(theta, 1)[0], memory="drop")  # type: ignore[arg-type]
        runner.act(np.ones(3))
        runner.observe(0.0)
        runner.replace(successors(plain, 1)[0]).result(60)
        runner.act(np.ones(3))
        assert runner.swap is not None
        assert runner.swap.memory == "none"
        runner.replace(successors(theta, 1)[0]).result(60)
        runner.act(np.ones(3))
        assert (runner.swap.memory, runner.swap.reason) == ("reset", "plain@1 has no memory")


# Episodes.


class Counting(gym.Env[Array, Array]):
    """Ends each episode after a fixed number of steps, and rewards the step's number."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gym.spaces.Box(-2.0, 2.0, (1,), np.float32)

    def __init__(self, lengths: list[int]) -> None:
        self._lengths, self._episode, self._step = lengths, -1, 0

    def reset(self, **options: Any) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=options.get("seed"))
        self._episode, self._step = self._episode + 1, 0
        return self._observe(), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        self._step += 1
        done = self._step == self._lengths[self._episode % len(self._lengths)]
        return self._observe(), float(self._step) + float(action[0]), done, False, {}

    def _observe(self) -> Array:
        return np.array([self._episode, self._step, 0.5], np.float32)


def replayed(policy: tp.AdaptedPolicy, lifetime: list[tp.Trajectory]) -> Array:
    """The deterministic actions over the episodes of one lifetime, from what they recorded."""
    state, actions = policy.begin(1), []
    for episode in lifetime:
        for step, observed in enumerate(episode.observations):
            action, state = policy.predict(observed[None], state)
            actions.append(action[0])
            state = state.observe(episode.rewards[step], step == len(episode) - 1)
    return np.array(actions)


@pytest.mark.parametrize("mode", ["single", *gym.vector.AutoresetMode])
def test_collect_keeps_the_memory_through_the_episodes_of_a_lifetime(mode: Any, tmp_path: Path) -> None:
    theta = remembering_theta(tmp_path, seed=3)
    # Almost without noise, the recorded actions are the means.
    quiet = {**theta.parameters, "log_std": theta.parameters["log_std"] * 0 - 13.0}
    policy = tp.AdaptedPolicy(theta.export(quiet).onnx)
    lengths = [[3, 5, 60], [4, 2, 1], [6, 1, 3]]
    if mode == "single":
        episodes = tp.collect(policy, Counting(lengths[0]), 3, seed=5)
        lifetimes = [episodes]
        assert [len(each) for each in episodes] == [3, 5, 40]  # the horizon truncates
    else:
        env = gym.vector.SyncVectorEnv([functools.partial(Counting, own) for own in lengths], autoreset_mode=mode)
        episodes = tp.collect(policy, env, 9, seed=5)
        lifetimes = [episodes[robot::3] for robot in range(3)]
    assert policy.state is None
    for lifetime in lifetimes:
        recorded = np.concatenate([each.actions for each in lifetime])
        np.testing.assert_allclose(np.clip(recorded, -1, 1) * 2, replayed(policy, lifetime), atol=1e-4)
        # The replay is able to fail: with a new lifetime for each episode, actions are others.
        anew = np.concatenate([replayed(policy, [each]) for each in lifetime])
        assert np.abs(anew - replayed(policy, lifetime)).max() > 1e-3
