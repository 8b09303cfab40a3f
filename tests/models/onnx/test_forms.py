"""Properties of every profile."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.models.policy_cases import CASES, Case, make_case
from thetaprime.models import (
    PROFILES,
    BoxAction,
    DiscreteAction,
    OnnxForm,
    ProfileError,
    derive_form,
    find_meta_policies,
    load_meta_policy,
    zoo_directory,
)

DERIVED = [name for name in PROFILES if name != "default"]
# For joints, which take numbers.
JOINTS = ("rsl-rl", "leapp", "robot")


def derive(case: Case, profile: str) -> OnnxForm:
    return derive_form(case.onnx, profile, case.robot if profile == "robot" else None)


@pytest.mark.parametrize("profile", PROFILES)
def test_the_same_policy_gives_the_same_bytes(profile: str) -> None:
    case = CASES["bounded-context"]
    first, second = derive(case, profile), derive(case, profile)
    assert first == second
    assert (first.profile, first.onnx_sha256) == (profile, second.onnx_sha256)


@pytest.mark.parametrize("directory", find_meta_policies(zoo_directory()), ids=lambda path: path.parent.name)
def test_the_export_of_a_shipped_policy_equals_its_file(directory: Path) -> None:
    meta_policy = load_meta_policy(directory)
    exported = meta_policy.export(meta_policy.parameters)
    assert exported.onnx_sha256 == meta_policy.manifest.files["policy.onnx"]
    form = derive_form(exported.onnx, "default")
    assert (form.onnx, form.onnx_sha256, form.metadata) == (exported.onnx, exported.onnx_sha256, exported.metadata)


@pytest.mark.parametrize(
    ("profile", "name"),
    [*((each, "bounded") for each in DERIVED), *((each, "discrete") for each in DERIVED if each not in JOINTS)],
)
def test_a_form_contains_golden_vectors_for_its_tensors(profile: str, name: str) -> None:
    case = CASES[name]
    form = derive(case, profile)
    session = onnxruntime.InferenceSession(form.onnx, providers=["CPUExecutionProvider"])
    golden = json.loads(form.metadata["thetaprime.golden"])
    source = json.loads(derive(case, "default").metadata["thetaprime.golden"])
    assert set(golden["inputs"]) == {each.name for each in session.get_inputs()}
    assert golden["inputs"][session.get_inputs()[0].name] == source["observations"]
    for index in range(len(source["observations"])):
        feed = {key: np.array(rows[index : index + 1], np.float32) for key, rows in golden["inputs"].items()}
        for key, value in zip(golden["outputs"], session.run(list(golden["outputs"]), feed), strict=True):
            np.testing.assert_allclose(value[0], golden["outputs"][key][index], rtol=1e-5, atol=1e-5)
    if profile in JOINTS:  # the default form's
        np.testing.assert_allclose(golden["outputs"]["actions"], source["actions"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("profile", DERIVED)
def test_a_form_describes_itself(profile: str) -> None:
    form = derive(CASES["bounded"], profile)
    model = onnx.ModelProto.FromString(form.onnx)
    assert {entry.key: entry.value for entry in model.metadata_props} == form.metadata
    assert form.metadata["thetaprime.profile"] == profile
    for key in ("policy_id", "parent_id", "meta_policy", "environment", "distribution"):
        assert form.metadata[f"thetaprime.{key}"] == derive(CASES["bounded"], "default").metadata[f"thetaprime.{key}"]
    names = [each.name for each in (*model.graph.input, *model.graph.output)]
    assert list(json.loads(form.metadata["thetaprime.tensors"])) == names
    assert (model.opset_import[0].version, model.ir_version) == (15, 8)
    used = {name for node in model.graph.node for name in node.input}
    assert {each.name for each in model.graph.initializer} <= used  # no unused initializer


def test_an_unknown_profile_is_refused() -> None:
    expected = r"profile: 'unreal'; expected one of default, epsilon, unity-mlagents, godot-rl, rsl-rl, leapp, robot"
    with pytest.raises(ProfileError, match=expected):
        derive_form(CASES["bounded"].onnx, "unreal")
    with pytest.raises(ProfileError, match=r"'x{40}…'"):
        derive_form(CASES["bounded"].onnx, "x" * 10_000)


def test_forms_are_derived_from_the_default_form_only() -> None:
    with pytest.raises(ValueError, match="in the form 'godot-rl'; other forms are derived from the default form"):
        derive_form(derive(CASES["bounded"], "godot-rl").onnx, "epsilon")
    with pytest.raises(ValueError, match="not an ONNX file"):
        derive_form(b"\xff\xffnothing of the kind", "epsilon")
    with pytest.raises(ValueError, match=r"thetaprime\.contract_version is None; expected '1'"):
        derive_form(onnx.ModelProto().SerializeToString(), "epsilon")


@given(
    seed=st.integers(0, 2**16),
    size=st.integers(1, 4),
    observation_size=st.integers(1, 6),
    discrete=st.booleans(),
    context_size=st.integers(0, 2),
)
def test_without_noise_the_epsilon_form_is_the_default_one(
    seed: int, size: int, observation_size: int, discrete: bool, context_size: int
) -> None:
    action = DiscreteAction(count=size + 1) if discrete else BoxAction(low=(-0.5,) * size, high=(3.0,) * size)
    case = make_case("any", action, (observation_size,), seed, context_size=context_size)
    observations = np.random.default_rng(seed).normal(size=(4, observation_size), scale=3).astype(np.float32)
    feed = {"obs": observations, "epsilon": np.zeros((4, case.action_size), np.float32)}
    form = onnxruntime.InferenceSession(derive(case, "epsilon").onnx, providers=["CPUExecutionProvider"])
    default = onnxruntime.InferenceSession(case.onnx, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(form.run(["actions"], feed)[0], default.run(["actions"], {"obs": observations})[0])
