"""An artifact's evaluation, repeated for another inner loop."""

import json
import shutil
from pathlib import Path

import pytest

from thetaprime.models import AdaptationSpec, ArtifactError, load_meta_policy, resolve_meta_policy, zoo_directory
from thetaprime.models.parameters import digest_bytes
from thetaprime.training.export.evaluate_again import evaluate_again
from thetaprime.training.export.model_card import other_networks


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """The shipped navigation, as if it had been evaluated on two tasks, with wrong returns."""
    folder = tmp_path / "point-navigation" / "1"
    shutil.copytree(zoo_directory() / "point-navigation" / "1", folder)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    evaluation |= {"tasks": 4, "seeds": [11, 12], "budgets": [2], "returns": {}, "scores": []}
    _write(folder, json.dumps(evaluation).encode())
    return folder


def _write(folder: Path, evaluation: bytes | None) -> None:
    manifest = load_meta_policy(zoo_directory() / "point-navigation" / "1").manifest
    files = dict(manifest.files)
    if evaluation is None:
        del files["evaluation.json"]
    else:
        files["evaluation.json"] = digest_bytes(evaluation)
        (folder / "evaluation.json").write_bytes(evaluation)
    (folder / "manifest.json").write_bytes(manifest.model_copy(update={"files": files}).sealed().to_bytes())


def fine_tuning(evaluation: bytes) -> dict[str, AdaptationSpec]:
    """The settings of the comparisons; a field that was added since has its default."""
    found = json.loads(evaluation)["fine_tuning"]
    return {method: AdaptationSpec.model_validate(each) for method, each in found.items()}


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_evaluation_is_repeated_and_nothing_else_changes(artifact: Path) -> None:
    before = load_meta_policy(artifact)
    card = (artifact / "README.md").read_text()
    settings = fine_tuning(before.read_extra("evaluation.json"))
    evaluate_again(artifact)
    after = load_meta_policy(artifact)
    measured = json.loads((artifact / "evaluation.json").read_text())
    assert (measured["tasks"], measured["seeds"], measured["budgets"]) == (4, [11, 12], [2])
    assert fine_tuning((artifact / "evaluation.json").read_bytes()) == settings
    assert measured["scores"][1] > 0.9
    changed = {name for name, digest in after.manifest.files.items() if digest != before.manifest.files[name]}
    assert changed == {"README.md", "curves.png", "evaluation.json"}
    assert after.policy_id == before.policy_id
    new = (artifact / "README.md").read_text()
    assert f"| meta-policy | {measured['returns']['maml'][0]:.2f} ±" in new
    assert f"| S_1, 95 % interval | {measured['scores_by_budget'][0]:.3f} [" in new
    # Only lines of tables of the evaluation differ.
    kept = [line for line in card.splitlines() if not line.startswith("|")]
    assert kept == [line for line in new.splitlines() if not line.startswith("|")]
    assert [line for line in card.splitlines() if "reward" in line] == [
        line for line in new.splitlines() if "reward" in line
    ]


def test_an_artifact_without_an_evaluation_is_refused(artifact: Path) -> None:
    _write(artifact, None)
    with pytest.raises(ArtifactError, match="no evaluation to repeat"):
        evaluate_again(artifact)


def test_a_field_that_came_later_makes_no_other_network() -> None:
    manifest = load_meta_policy(resolve_meta_policy("point-navigation")).manifest
    assert set(manifest.provenance.comparisons) == {"pretrained", "oracle"}
    assert "memory" not in manifest.provenance.comparisons["oracle"].config["policy"]
    assert other_networks(manifest) == []
    larger = manifest.model_copy(update={"policy": manifest.policy.model_copy(update={"hidden_sizes": (7,)})})
    assert other_networks(larger) == ["pretrained", "oracle"]
