"""The evaluation and the artifact of a policy that remembers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from thetaprime.cli import cli
from thetaprime.models import ArtifactError, RecurrentPolicy, load_meta_policy, resolve_meta_policy
from thetaprime.training.algorithms.rl2 import trained_spec
from thetaprime.training.checkpoint import load_checkpoint
from thetaprime.training.evaluation.figures.lifetimes import lifetimes_figure
from thetaprime.training.evaluation.lifetimes import (
    GradientBranch,
    LifetimeEvaluation,
    LifetimePlan,
    evaluate_lifetimes,
    lifetime_work,
)
from thetaprime.training.export.memory import export_memory
from thetaprime.training.export.request import ExportRequest

pytestmark = pytest.mark.usefixtures("one_thread")


def made(**changes: Any) -> LifetimeEvaluation:
    returns = np.array([[-8.0, -6.0], [-2.0, -4.0], [-1.0, -1.0]])
    values: dict[str, Any] = {
        "meta_policy": "any@1",
        "seeds": (0,),
        "tasks": [{"goal": 0.0}, {"goal": 1.0}],
        "returns": returns,
        "comparisons": {"pretrained": np.array([-10.0, -12.0]), "oracle": np.array([-1.0, -1.0])},
        "gradient": GradientBranch("other@2", 2, np.array([[-11.0, -9.0], [-1.0, -3.0]])),
    }
    return LifetimeEvaluation(**{**values, **changes})


def test_scores_lie_between_the_pretrained_policy_and_the_oracle() -> None:
    assert made().scores() == pytest.approx([0.4, 0.8, 1.0])
    assert made().scores(indices=np.array([1])) == pytest.approx([6 / 11, 8 / 11, 1.0])
    low, high = made().score_interval()
    assert np.all(low <= made().scores())
    assert np.all(made().scores() <= high)
    with pytest.raises(ValueError, match="a score needs a pretrained policy and an oracle"):
        made(comparisons={}).scores()


def test_a_policy_that_adapts_by_gradient_is_one_policy_through_each_round() -> None:
    branch = GradientBranch("other@2", 3, np.array([[1.0], [2.0], [3.0]]))
    assert branch.by_episode(10)[:, 0].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3, 3]


def test_the_numbers_are_those_of_the_picture() -> None:
    evaluation = made()
    found = json.loads(json.dumps(evaluation.to_json()))
    assert found["returns_by_episode"] == [-7.0, -3.0, -1.0]
    assert found["gradient"]["scores_by_round"] == pytest.approx([0.1, 0.9])
    axes = lifetimes_figure(evaluation).axes[0]
    lines = {line.get_label(): np.asarray(line.get_ydata(), float).tolist() for line in axes.get_lines()}
    assert lines["in memory (RL²)"] == [-7.0, -3.0, -1.0]
    assert lines["by gradient, rounds of 2"] == [-10.0, -10.0, -2.0]
    assert lines["pretrained"] == [-11.0, -11.0]
    assert made(comparisons={}, gradient=None).to_json()["scores_by_episode"] is None


def invoked(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="thetaprime")


TRAIN = (
    *("train", "point-navigation", "--method", "rl2", "--recipe", "paper", "--iterations", "1", "--tracker", "none"),
    *("--meta-batch-size", "2", "--policy-hidden-sizes", "8", "--policy-memory-size", "4"),
)
COMPARED = ("--pretrained", "point-navigation", "--oracle", "point-navigation")
NAMED = ("--name", "found-by-memory", "--description", "Remembers.")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one iteration."""
    folder = tmp_path_factory.mktemp("runs") / "rl2"
    result = invoked(*TRAIN, "--output", str(folder))
    assert result.exit_code == 0, result.output
    return folder


@pytest.mark.slow
def test_a_run_becomes_an_artifact_that_is_evaluated_by_episode(run_folder: Path, tmp_path: Path) -> None:
    zoo, tasks = tmp_path / "zoo", ("--tasks", "2")
    result = invoked("export", str(run_folder), *NAMED, *COMPARED, *tasks, "--output", str(zoo), "--json")
    assert result.exit_code == 0, result.output
    artifact = load_meta_policy(zoo / "found-by-memory" / "1")
    run = load_checkpoint(run_folder)
    assert isinstance(artifact.network, RecurrentPolicy)
    assert artifact.manifest.policy == trained_spec(run)
    assert artifact.network.memory.reward_scale not in (None, 1.0)
    assert all(value.equal(run.parameters[name]) for name, value in artifact.parameters.items())
    assert artifact.manifest.provenance.environment_steps == run.environment_steps
    facts = json.loads(result.stdout)
    assert len(facts["scores_by_episode"]) == 10
    card = (artifact.directory / "README.md").read_text()
    assert "the state of a GRU of 4, while the policy acts" in card
    assert "| S, 95 % interval |" in card

    folder = tmp_path / "evaluated"
    asked = ("--episodes", "3", "--beside", "point-navigation", "--output", str(folder), "--json")
    result = invoked("evaluate", str(artifact.directory), *tasks, *asked)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found == {**json.loads((folder / "evaluation.json").read_text()), "figure": str(folder / "curves.png")}
    assert found["episodes"] == len(found["returns_by_episode"]) == 3
    assert found["gradient"]["trajectories"] == 20
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")

    for options, message in (
        (("--methods", "maml"), "--methods is for policies that adapt by gradient; a memory takes --episodes"),
        (("--trajectories", "3"), "--trajectories is for policies that adapt by gradient"),
        (("--beside", "half-cheetah-velocity"), "was trained on half-cheetah-velocity"),
    ):
        refused = invoked("evaluate", str(artifact.directory), *options, "--output", str(tmp_path / "no"))
        assert refused.exit_code != 0
        assert message in " ".join(refused.output.split()), refused.output


def test_options_of_an_inner_loop_are_refused(run_folder: Path, tmp_path: Path) -> None:
    request = ExportRequest(
        maml=run_folder, output=tmp_path, name="a", version=1, description="b", adapted_std_factor=0.5
    )
    with pytest.raises(ArtifactError, match=r"adapted_std_factor is 0\.5; a policy with a memory takes no gradient"):
        export_memory(request)


def test_a_policy_without_a_memory_has_no_lifetimes(tmp_path: Path) -> None:
    shipped = load_meta_policy(resolve_meta_policy("point-navigation"))
    with pytest.raises(ValueError, match=r"point-navigation@\d+ has no memory; expected one"):
        evaluate_lifetimes(shipped)
    result = invoked("evaluate", "point-navigation", "--beside", "point-navigation", "--output", str(tmp_path / "e"))
    assert result.exit_code == 2
    assert "has no memory; expected one, with the other beside it" in " ".join(result.output.split())
    beside = lifetime_work(LifetimePlan(tasks=3, seeds=(1, 2), episodes=21), 2, shipped)
    assert beside == 6 * (21 + 2 * 5 + 2 * 20)
