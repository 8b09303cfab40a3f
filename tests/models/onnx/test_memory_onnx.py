"""The ONNX file of a policy with a memory: contract version 2."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.support.models.memory_cases import CASES, ROBOTS, MemoryCase, live, make_policy
from tests.support.models.policy_cases import BOUNDED
from tests.support.models.policy_cases import CASES as FORGETFUL
from tests.support.models.runtimes import Job, Outputs, run_newest
from thetaprime import wire
from thetaprime.models import OnnxTemplate, ProfileError, derive_form
from thetaprime.models.golden import Decimal50, Float64, evaluate_rounded
from thetaprime.models.onnx.golden import graph_network
from thetaprime.models.onnx.golden_sequences import golden_inputs, golden_sequences, sequence_actions
from thetaprime.models.onnx.memory_graph import state_tensors
from thetaprime.models.onnx.source import DefaultForm

HEAD = {True: "mean", False: "logits"}
EVERY = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def memory_of(metadata: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(metadata["thetaprime.memory"])
    return found


def play(case: MemoryCase, tmp_path: Path, batch: int, **change: Any) -> Outputs:
    """The deterministic actions, and the means or logits, of the file in onnxruntime, over whole lifetimes."""
    path, lived = tmp_path / "policy.onnx", live(case)
    path.write_bytes(case.onnx)
    states = [{**each, **change} for each in memory_of(case.exported.metadata)["states"]]
    inputs = {name: rows[:, :batch] for name, rows in lived.inputs.items()}
    outputs = ["actions", HEAD[case.policy.continuous]]
    (found,) = run_newest([Job(path, inputs, outputs, lived.resets[:, :batch], states)])
    return found


@EVERY
@pytest.mark.parametrize("batch", [1, ROBOTS])
def test_the_file_equals_torch_over_whole_lifetimes(case: MemoryCase, batch: int, tmp_path: Path) -> None:
    found, lived = play(case, tmp_path, batch), live(case)
    for name, expected in (("actions", lived.actions), (HEAD[case.policy.continuous], lived.head)):
        np.testing.assert_allclose(found[name], expected[:, :batch], rtol=1e-4, atol=1e-4)


@EVERY
def test_the_lifetimes_tell_a_wrong_state_apart(case: MemoryCase, tmp_path: Path) -> None:
    """The test above is able to fail: another initial state gives other outputs after each reset."""
    lived = live(case)
    assert lived.resets[1:].any()
    assert (lived.inputs["prev_done"] == 1).any()
    initial = memory_of(case.exported.metadata)["states"][0]["initial"]
    other = play(case, tmp_path, ROBOTS, initial=(np.array(initial) + 1.0).tolist())
    assert np.mean(np.abs(other[HEAD[case.policy.continuous]] - lived.head) > 1e-3) > 0.1


@EVERY
def test_the_metadata_says_how_to_run_the_file(case: MemoryCase) -> None:
    memory, policy = memory_of(case.exported.metadata), case.policy
    assert case.exported.metadata["thetaprime.contract_version"] == "2"
    names = ["h", "c"] if policy.memory.cell == "lstm" else ["h"]
    assert [(each["input"], each["output"]) for each in memory["states"]] == [(f"{n}_in", f"{n}_out") for n in names]
    session = onnxruntime.InferenceSession(case.onnx)
    feeds: dict[str, Any] = {"obs": np.zeros((1, policy.environment.observation_size), np.float32)}
    shapes = {each.name: each.shape for each in session.get_inputs()}
    for each in memory["states"]:
        assert shapes[each["input"]] == [1, "batch", 16]
        feeds[each["input"]] = np.expand_dims(np.array(each["initial"], np.float32), each["axis"])
    types = {each.name: np.int64 if "int64" in each.type else np.float32 for each in session.get_inputs()}
    feeds |= {name: np.array([value], types[name]) for name, value in memory["start"].items()}
    assert feeds.keys() == shapes.keys()
    # The initial state is also an output, for runtimes that show no metadata.
    found = session.run([f"{name}_initial" for name in names], feeds)
    for name, tensor, each in zip(("memory.initial", "memory.initial_cell"), found, memory["states"], strict=False):
        np.testing.assert_array_equal(tensor, np.array(each["initial"], np.float32))
        np.testing.assert_array_equal(tensor[0], case.parameters[name].numpy())


@EVERY
def test_the_file_keeps_every_parameter_to_the_bit(case: MemoryCase) -> None:
    read = OnnxTemplate(case.policy, "any@1").read(case.onnx)
    assert read.keys() == case.parameters.keys()
    assert all(torch.equal(read[name], value) for name, value in case.parameters.items())


@EVERY
def test_the_check_of_files_accepts_every_form(case: MemoryCase) -> None:
    assert wire.check_onnx(case.onnx).max_golden_vectors == 1024
    for profile in ("epsilon", "unity-mlagents"):
        wire.check_onnx(derive_form(case.onnx, profile).onnx)


@EVERY
def test_engines_run_every_operator(case: MemoryCase) -> None:
    for profile in ("default", "unity-mlagents"):
        model = onnx.ModelProto.FromString(derive_form(case.onnx, profile).onnx)
        assert model.opset_import[0].version == 15
        assert not {node.op_type for node in model.graph.node} & {"GRU", "LSTM", "RNN", "If", "Loop", "Scan"}


@EVERY
def test_golden_sequences_are_torchs(case: MemoryCase) -> None:
    source = DefaultForm.read(case.onnx)
    assert source.resets is not None
    assert source.resets.shape == (3, 6)
    assert source.resets[:, 1:].sum(axis=1).tolist() == [1] * 3
    found = sequence_actions(case.policy, case.parameters, source)
    np.testing.assert_allclose(found, source.golden_outputs["actions"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(case.exported.golden_actions, found[:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["gru", "lstm-discrete"])
def test_golden_sequences_are_decided_to_the_bit(name: str) -> None:
    """Decimal arithmetic of 50 digits gives every rounded state and action that float64 gives."""
    case = CASES[name]
    model = onnx.ModelProto.FromString(case.onnx)
    states = state_tensors(case.policy, case.parameters)
    axes = {each: state.axis for state in states for each in (state.input, state.output)}
    network = graph_network(model, ["actions", *(state.output for state in states)], axes)
    inputs, _ = golden_inputs(case.policy, case.exported.golden_observations.reshape(3, -1))
    rows = {name: array[:2, 1] for name, array in inputs.items()} | {each.input: each.rows(2) for each in states}
    expected = {name: value.rounded()[0] for name, value in network(Decimal50, rows).items()}
    assert not any(flags.any() for _, flags in (value.rounded() for value in network(Float64, rows).values()))
    for output, array in evaluate_rounded(network, rows).items():
        np.testing.assert_array_equal(array, expected[output])


def test_golden_sequences_begin_again_in_their_middle() -> None:
    """Without the reset, later actions are others."""
    case = CASES["gru"]
    inputs, resets = golden_inputs(case.policy, case.exported.golden_observations.reshape(3, -1))
    model, states = onnx.ModelProto.FromString(case.onnx), state_tensors(case.policy, case.parameters)
    once = np.zeros_like(resets)
    once[:, 0] = True
    with_reset, without = (
        np.array(golden_sequences(model, inputs, each, states, ["actions"])["outputs"]["actions"])
        for each in (resets, once)
    )
    for sequence, row in enumerate(resets):
        middle = int(np.flatnonzero(row)[1])
        np.testing.assert_array_equal(with_reset[sequence, :middle], without[sequence, :middle])
        assert (with_reset[sequence, middle] != without[sequence, middle]).any()


def test_godot_refuses_a_memory_by_name() -> None:
    with pytest.raises(ProfileError, match=r"'godot-rl' cannot express this policy: it has a memory, and the plugin"):
        derive_form(CASES["gru"].onnx, "godot-rl")


@pytest.mark.parametrize("name", ["gru", "gru-discrete", "lstm"])
def test_unity_begins_a_lifetime_with_zeros(name: str) -> None:
    """ML-Agents clears an agent's memory to zeros, and takes its length from a constant."""
    case = CASES[name]
    session = onnxruntime.InferenceSession(derive_form(case.onnx, "unity-mlagents").onnx)
    shapes = {each.name: each.shape for each in session.get_inputs()}
    size = case.policy.environment.observation_size
    feeds = {"obs_0": np.full((1, size + 2), 0.25, np.float32)}
    feeds["obs_0"][0, size:] = 0.0
    feeds["recurrent_in"] = np.zeros((1, 1, shapes["recurrent_in"][2]), np.float32)
    if "action_masks" in shapes:
        feeds["action_masks"] = np.ones((1, case.policy.environment.action.size), np.float32)
    (memory_size,) = session.run(["memory_size"], feeds)
    states = 2 if case.policy.memory.cell == "lstm" else 1
    assert shapes["recurrent_in"] == ["batch", 1, int(memory_size[0])]
    assert memory_size.tolist() == [16 * states + case.policy.environment.action.size]
    observation = torch.full((1, size), 0.25)
    initial = case.policy.initial_state(case.parameters, 1)
    with torch.no_grad():
        outputs, _ = case.policy.step(case.parameters, case.policy.first_inputs(observation), initial)
    if case.policy.continuous:
        (found,) = session.run(["continuous_actions"], feeds)
        clip = case.policy.scaling[0].numpy()
        np.testing.assert_allclose(found, np.clip(outputs[0].numpy(), -clip, clip), atol=1e-5)
    else:
        (found,) = session.run(["discrete_actions"], feeds)
        assert found.tolist() == [[int(outputs[0].argmax())]]


def test_a_policy_without_a_memory_keeps_version_1() -> None:
    source = DefaultForm.read(FORGETFUL["bounded"].onnx)
    assert source.metadata["thetaprime.contract_version"] == "1"
    assert source.memory is None
    assert source.states == []
    with pytest.raises(ValueError, match="a policy without a memory; expected '2'"):
        sequence_actions(*make_policy(BOUNDED), source)


def test_the_error_of_a_sequence_does_not_grow() -> None:
    """The state is rounded at each step, so that the bound of the last step's error is that of the first."""
    policy, parameters = make_policy(BOUNDED, size=256)
    parameters = {name: value / 8 for name, value in parameters.items()}
    model, states = OnnxTemplate(policy, "any@1").fill(parameters), state_tensors(policy, parameters)
    axes = {each: state.axis for state in states for each in (state.input, state.output)}
    network = graph_network(model, ["h_out"], axes)
    rows = {name: array[:, 3] for name, array in golden_inputs(policy, np.ones((3, 5), np.float32))[0].items()}
    state = np.random.default_rng(0).uniform(-1, 1, (3, 1, 256)).astype(np.float32)
    value = network(Float64, {**rows, "h_in": state})["h_out"]
    # Of 3 * 6 * 256 numbers, one in some thousand exports lies within this bound of the middle between two roundings.
    assert float(np.max(value.error)) < 1e-11
