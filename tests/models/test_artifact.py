import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thetaprime.models import (
    ArtifactError,
    BoxAction,
    EnvironmentContract,
    Manifest,
    find_meta_policies,
    load_meta_policy,
    parameters_digest,
    resolve_meta_policy,
    write_meta_policy,
    zoo_directory,
)


@pytest.fixture
def artifact(point_artifact: Path, tmp_path: Path) -> Path:
    """A copy for the test to damage."""
    return Path(shutil.copytree(point_artifact / "point-navigation" / "1", tmp_path / "point-navigation" / "1"))


def test_an_artifact_round_trips(artifact: Path) -> None:
    meta_policy = load_meta_policy(artifact)
    assert meta_policy.label == "point-navigation@1"
    assert meta_policy.policy_id == parameters_digest(meta_policy.parameters)
    assert sorted(path.name for path in artifact.iterdir()) == sorted([*meta_policy.manifest.files, "manifest.json"])
    exported = meta_policy.export(meta_policy.parameters)
    assert exported.onnx == (artifact / "policy.onnx").read_bytes()


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_flipped_bit_in_any_file_is_refused_by_name(artifact: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(artifact.iterdir())))
    whole = path.read_bytes()
    position = data.draw(st.integers(0, 8 * len(whole) - 1))
    spoiled = bytearray(whole)
    spoiled[position // 8] ^= 1 << position % 8
    try:
        path.write_bytes(spoiled)
        with pytest.raises(ArtifactError) as caught:
            load_meta_policy(artifact)
    finally:
        path.write_bytes(whole)
    assert path.name in caught.value.file


def test_a_missing_file_is_refused_by_name(artifact: Path) -> None:
    (artifact / "theta.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"theta\.safetensors: cannot be read"):
        load_meta_policy(artifact)


def test_a_newer_schema_is_refused_with_a_remedy(artifact: Path) -> None:
    manifest = json.loads((artifact / "manifest.json").read_text())
    manifest["schema_version"] = 2
    (artifact / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"manifest\.json: schema_version 2; this thetaprime reads 1; .* upgrade"):
        load_meta_policy(artifact)


def test_later_fields_take_their_defaults(artifact: Path) -> None:
    """An artifact of an earlier version lacks them, and keeps its bytes."""
    raw = json.loads((artifact / "manifest.json").read_bytes())
    del raw["policy"]["context_size"], raw["adaptation"]["context_lr"]
    earlier = Manifest.model_validate(raw).sealed()
    (artifact / "manifest.json").write_bytes(earlier.to_bytes())
    assert b"context" not in earlier.to_bytes()
    assert load_meta_policy(artifact).manifest.policy.context_size == 0


def test_learned_step_sizes_may_omit_parameters(artifact: Path, tmp_path: Path) -> None:
    found = load_meta_policy(artifact)
    manifest = found.manifest
    sizes = {"log_std": torch.ones_like(found.parameters["log_std"])}
    written = write_meta_policy(
        tmp_path / "again",
        name=manifest.name,
        version=manifest.version,
        description=manifest.description,
        environment=manifest.environment,
        policy_spec=manifest.policy,
        adaptation=manifest.adaptation,
        parameters=found.parameters,
        provenance=manifest.provenance,
        golden_observations=np.zeros((1, *manifest.environment.observation_shape)),
        step_sizes=sizes,
    )
    assert written.step_sizes is not None
    assert written.step_sizes.keys() == {"log_std"}


def test_manifest_files_must_be_plain_names(artifact: Path) -> None:
    manifest = load_meta_policy(artifact).manifest
    evil = manifest.model_copy(update={"files": {**manifest.files, "../escape": "0" * 64}}).sealed()
    (artifact / "manifest.json").write_bytes(evil.to_bytes())
    with pytest.raises(ArtifactError, match="is not the plain name"):
        load_meta_policy(artifact)


def test_every_field_of_the_manifest_is_documented() -> None:
    def undocumented(model: type, path: str) -> list[str]:
        missing = []
        for name, field in model.model_fields.items():  # type: ignore[attr-defined]
            if not field.description:
                missing.append(f"{path}.{name}")
            if isinstance(field.annotation, type) and hasattr(field.annotation, "model_fields"):
                missing += undocumented(field.annotation, f"{path}.{name}")
        return missing

    assert undocumented(Manifest, "manifest") == []


def test_exports_contain_their_identity_and_golden_vectors(artifact: Path) -> None:
    meta_policy = load_meta_policy(artifact)
    adapted = {name: value + 0.01 for name, value in meta_policy.parameters.items()}
    exported = meta_policy.export(adapted, meta_policy.policy_id)
    session = onnxruntime.InferenceSession(exported.onnx, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata == exported.metadata
    assert metadata["thetaprime.contract_version"] == "1"
    assert metadata["thetaprime.policy_id"] == parameters_digest(adapted) == exported.policy_id
    assert metadata["thetaprime.parent_id"] == meta_policy.policy_id
    assert metadata["thetaprime.meta_policy"] == "point-navigation@1"
    assert json.loads(metadata["thetaprime.environment"])["horizon"] == 100
    golden = json.loads(metadata["thetaprime.golden"])
    observations = np.array(golden["observations"], np.float32)
    actions = session.run(["actions"], {"obs": observations})[0]
    np.testing.assert_allclose(actions, np.array(golden["actions"], np.float32), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(observations, exported.golden_observations)


def test_the_file_is_opset_15_ir_8_and_batched(artifact: Path) -> None:
    import onnx

    model = onnx.load(artifact / "policy.onnx")
    assert model.ir_version == 8
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 15)]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    onnx.checker.check_model(model, full_check=True)
    assert not any(each.external_data for each in model.graph.initializer)


def test_the_same_parameters_give_the_same_bytes(artifact: Path) -> None:
    meta_policy = load_meta_policy(artifact)
    again = {name: torch.clone(value) for name, value in reversed(meta_policy.parameters.items())}
    assert meta_policy.export(again).onnx == meta_policy.export(meta_policy.parameters).onnx


def test_artifacts_are_found_by_name_version_and_path(point_artifact: Path) -> None:
    folder = point_artifact / "point-navigation" / "1"
    assert find_meta_policies(point_artifact) == [folder]
    for reference in ("point-navigation", "point-navigation@1", str(folder)):
        assert resolve_meta_policy(reference, point_artifact) == folder
    with pytest.raises(ArtifactError, match="the zoo has: point-navigation@1"):
        resolve_meta_policy("point-navigation@7", point_artifact)


def test_the_shipped_zoo_is_complete() -> None:
    shipped = find_meta_policies(zoo_directory())
    names = [path.parent.name for path in shipped]
    assert names == [
        "ant-direction",
        "ant-velocity",
        "half-cheetah-direction",
        "half-cheetah-direction-maml",
        "half-cheetah-velocity",
        "half-cheetah-velocity-maml",
        "point-navigation",
        "point-navigation-maml",
    ]
    for path in shipped:
        meta_policy = load_meta_policy(path)
        assert meta_policy.manifest.name == path.parent.name
        assert {"README.md", "curves.png", "oracle.safetensors"} <= meta_policy.manifest.files.keys()


def test_unbounded_actions_round_trip_through_the_manifest() -> None:
    environment = EnvironmentContract(
        environment_id="test", observation_shape=(2,), action=BoxAction(low=(-np.inf,), high=(np.inf,)), horizon=3
    )
    assert EnvironmentContract.model_validate_json(environment.model_dump_json()) == environment
