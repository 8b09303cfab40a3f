"""The folder of a meta-policy with a memory: written, read, and refused where it was altered."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from tests.support.artifacts import replace, reseal, write_untrained
from tests.support.contracts import CONTRACTS
from thetaprime.models import (
    ArtifactError,
    MemorySpec,
    MemoryUnsupportedError,
    PolicySpec,
    RecurrentPolicy,
    load_meta_policy,
    parameters_to_bytes,
)
from thetaprime.models.rewrite_onnx import rewrite_onnx

SPEC = PolicySpec(hidden_sizes=(8,), memory=MemorySpec(size=6, encoder_sizes=(5,), reward_scale=0.1))


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return write_untrained(tmp_path, "pendulum-rl2", CONTRACTS["pendulum"], spec=SPEC).directory


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("name", ["pendulum", "cart-pole", "grid"])
def test_an_artifact_is_read_as_it_was_written(cell: Any, name: str, tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"memory": MemorySpec(cell=cell, size=6, reward_scale=0.1)})
    written = write_untrained(tmp_path, "some", CONTRACTS[name], spec=spec)
    read = load_meta_policy(written.directory)
    assert isinstance(read.network, RecurrentPolicy)
    assert read.recurrent
    assert all(torch.equal(written.parameters[key], value) for key, value in read.parameters.items())
    exported = read.export(read.parameters)
    assert exported.onnx == (written.directory / "policy.onnx").read_bytes()
    assert exported.golden_observations.shape == (3, *CONTRACTS[name].observation_shape)
    assert not rewrite_onnx(written.directory)


def test_adapted_parameters_are_written_into_the_same_graph(artifact: Path) -> None:
    meta_policy = load_meta_policy(artifact)
    moved = {name: value + 0.1 for name, value in meta_policy.parameters.items()}
    exported = meta_policy.export(moved, meta_policy.policy_id)
    assert exported.metadata["thetaprime.parent_id"] == meta_policy.policy_id
    memory = json.loads(exported.metadata["thetaprime.memory"])
    np.testing.assert_allclose(memory["states"][0]["initial"], [[0.1] * 6], rtol=1e-6)
    assert all(torch.equal(meta_policy.template.read(exported.onnx)[name], value) for name, value in moved.items())


def test_a_gradient_step_is_refused_by_name(artifact: Path) -> None:
    with pytest.raises(MemoryUnsupportedError, match=r"pendulum-rl2@1 carries a memory \(gru\), and adapts in it"):
        load_meta_policy(artifact).policy  # noqa: B018


@pytest.mark.parametrize(
    ("memory", "problem"),
    [
        (
            {"size": 1 << 30},
            r"policy\.memory, policy\.hidden_sizes and action together have \d+ units; expected at most",
        ),
        ({"size": 100_000}, r"policy\.memory, policy\.hidden_sizes and policy\.context_size make \d+ parameters"),
        ({"encoder_sizes": [1 << 30] * 3}, r"have \d+ units; expected at most"),
        ({"size": 0}, r"policy\.memory\.size: Input should be greater than or equal to 1"),
        ({"cell": "rnn"}, r"policy\.memory\.cell: Input should be 'gru' or 'lstm'"),
        ({"size": 7}, r"theta\.safetensors: layers\.0\.weight is .* \[8, 9\]; expected float32 \[8, 10\]"),
        ({"reward_scale": 0.2}, r"does not act over the golden sequences as policy\.onnx says"),
        (None, r"theta\.safetensors: holds .*memory"),
    ],
)
def test_an_altered_memory_is_refused(memory: dict[str, Any] | None, problem: str, artifact: Path) -> None:
    reseal(
        artifact, lambda raw: raw["policy"].update(memory=None if memory is None else raw["policy"]["memory"] | memory)
    )
    with pytest.raises(ArtifactError, match=problem):
        load_meta_policy(artifact)


@pytest.mark.parametrize("name", ["memory.initial", "memory.weight_hh"])
def test_a_state_that_is_not_finite_is_refused(name: str, artifact: Path) -> None:
    parameters = dict(load_meta_policy(artifact).parameters)
    parameters[name] = torch.full_like(parameters[name], torch.nan)
    replace(artifact, "theta.safetensors", parameters_to_bytes(parameters))
    with pytest.raises(ArtifactError, match=rf"theta\.safetensors: {name} is not finite"):
        load_meta_policy(artifact)


def test_the_file_of_a_policy_without_a_memory_is_refused(artifact: Path, tmp_path: Path) -> None:
    other = write_untrained(tmp_path, "pendulum", CONTRACTS["pendulum"]).directory
    replace(artifact, "policy.onnx", (other / "policy.onnx").read_bytes())
    with pytest.raises(ArtifactError, match=r"policy\.onnx: thetaprime\.contract_version is that of a policy without"):
        load_meta_policy(artifact)


def test_golden_sequences_of_another_policy_are_refused(artifact: Path, tmp_path: Path) -> None:
    other = write_untrained(tmp_path, "grid", CONTRACTS["grid"], spec=SPEC).directory
    replace(artifact, "policy.onnx", (other / "policy.onnx").read_bytes())
    with pytest.raises(ArtifactError, match=r"policy\.onnx: its golden sequences do not fit the policy"):
        load_meta_policy(artifact)


def test_a_damaged_file_is_refused(artifact: Path) -> None:
    model = onnx.ModelProto.FromString((artifact / "policy.onnx").read_bytes())
    weight = next(each for each in model.graph.initializer if each.name == "theta.memory.weight_hh")
    weight.raw_data = bytes(len(weight.raw_data))
    (artifact / "policy.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match=r"policy\.onnx: sha256"):
        load_meta_policy(artifact)
