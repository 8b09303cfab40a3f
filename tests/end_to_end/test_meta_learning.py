"""Meta-training learns to adapt, in small runs."""

from pathlib import Path

import numpy as np
import pytest

from thetaprime.models import Policy, load_meta_policy
from thetaprime.models.verdict.calibration import load_calibration
from thetaprime.training.checkpoint import RunState, load_checkpoint
from thetaprime.training.config import TrainConfig, load_config
from thetaprime.training.evaluation.curves import adaptation_curve
from thetaprime.training.evaluation.evaluation import EvaluationPlan, evaluate
from thetaprime.training.evaluation.scores import Returns
from thetaprime.training.export.export import export_meta_policy, more_evaluation_name
from thetaprime.training.export.request import ExportRequest
from thetaprime.training.run import run_tasks, train

SMALL = {
    "tasks": "point-navigation",
    "seed": 0,
    "meta_batch_size": 8,
    "max_kl": 0.03,
    "fisher_fraction": 1.0,
    "policy.hidden_sizes": [32, 32],
    "policy.activation": "tanh",
    "policy.observation_std": [0.2, 0.2],
    "policy.init_output_scale": 0.01,
    "policy.init_log_std": -1.0,
    "adaptation.inner_lr": 0.1,
    "adaptation.discount": 0.5,
    "adaptation.target_return": 0.0,
    "adaptation.return_gap": 40.0,
    "adaptation.trajectories_per_round": 10,
}


def _config(**changes: object) -> TrainConfig:
    return load_config(None, {**SMALL, **changes})


def _curve(config: TrainConfig, state: RunState) -> Returns:
    distribution = run_tasks(config)
    curve = adaptation_curve(
        distribution,
        distribution.sample_tasks(20, np.random.default_rng(1)),
        Policy(distribution.environment, config.policy),
        state.parameters,
        state.step_sizes,
        config.adaptation,
        gradient_steps=1,
        trajectories=10,
        seed=1,
    )
    mean: Returns = curve.mean(1)
    return mean


@pytest.fixture(scope="module")
def untrained_return(tmp_path_factory: pytest.TempPathFactory) -> float:
    """The mean return after one gradient step from a θ that has hardly moved from its initialization."""
    config = _config(iterations=1, max_kl=1e-9)
    return float(_curve(config, train(config, tmp_path_factory.mktemp("untrained")))[1])


@pytest.mark.slow
@pytest.mark.parametrize(("curvature", "iterations"), [("log_prob", 8), ("ratio", 8), ("dice", 12)])
def test_meta_training_improves_the_return_after_one_gradient_step(
    tmp_path: Path, untrained_return: float, curvature: str, iterations: int
) -> None:
    config = _config(iterations=iterations, **{"adaptation.curvature": curvature, "adaptation.dice_decay": 0.9})
    trained = _curve(config, train(config, tmp_path))
    assert trained[1] > untrained_return + 3.0, f"after one step {untrained_return} untrained, {trained[1]} trained"
    assert trained[1] > trained[0] + 10.0


@pytest.mark.slow
@pytest.mark.usefixtures("quick_evaluation")
def test_from_runs_to_a_measured_artifact(tmp_path: Path) -> None:
    for method, iterations in (("maml", 6), ("pretrained", 6), ("oracle", 60)):
        train(_config(method=method, iterations=iterations), tmp_path / method)
    request = ExportRequest(
        maml=tmp_path / "maml",
        pretrained=tmp_path / "pretrained",
        oracle=tmp_path / "oracle",
        output=tmp_path / "zoo" / "tiny" / "3",
        name="tiny",
        version=3,
        description="Tiny.",
        tasks=8,
        seeds=(5, 6),
        more_trajectories=(8,),
        adapted_std_factor=0.5,
        later_step_factor=0.5,
        exploration_std_factor=1.25,
    )
    meta_policy, exported = export_meta_policy(request)
    assert load_calibration(meta_policy) is not None
    again = evaluate(load_meta_policy(request.output), EvaluationPlan(tasks=8, seeds=(5, 6)))
    for method in ("maml", "pretrained", "random"):
        np.testing.assert_array_equal(again.returns[method], exported.returns[method])
    assert again.by_budget.shape == (6, 16) and again.budgets == (1, 2, 5, 10, 20, 40)
    np.testing.assert_array_equal(again.by_budget, exported.by_budget)
    assert meta_policy.manifest.adaptation.adapted_std_factor == 0.5
    trained = load_checkpoint(request.maml).config.adaptation.inner_lr_schedule
    assert meta_policy.manifest.adaptation.inner_lr_schedule == (trained[0], 0.5 * trained[-1])
    noisier = meta_policy.parameters["log_std"] - load_checkpoint(request.maml).parameters["log_std"]
    np.testing.assert_allclose(noisier.exp(), 1.25, rtol=1e-5)
    assert meta_policy.manifest.provenance.exploration_std_factor == 1.25
    card = (request.output / "README.md").read_text()
    assert "# tiny, version 3" in card and f"{exported.returns['maml'][1].mean():.2f}" in card
    assert "With 8 trajectories for each gradient step" in card
    assert more_evaluation_name(8) in meta_policy.manifest.files
    for figure in ("curves.png", "learning.png"):
        assert (request.output / figure).read_bytes().startswith(b"\x89PNG")
    oracle_run = meta_policy.manifest.provenance.comparisons["oracle"]
    assert (oracle_run.iterations, oracle_run.config["method"]) == (60, "oracle")
    assert meta_policy.manifest.provenance.iterations == 6
    # The oracle observes the goal: it must return more than any policy before adaptation.
    assert exported.oracle is not None
    assert exported.oracle.mean() > max(curve[0].mean() for curve in exported.returns.values()) + 5.0
