"""The committed configurations, and the checkpoints that go with them."""

import shutil
from pathlib import Path

import pytest

from thetaprime.training.checkpoint import CheckpointError, load_checkpoint
from thetaprime.training.config import TrainConfig, load_config
from thetaprime.training.run import train

TRAINING = Path(__file__).parents[2] / "training"
CONFIGS = sorted((TRAINING / "configs").glob("*.toml"))
PUBLISHED = [path for path in CONFIGS if path.stem.endswith("-maml")]


def _name(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", CONFIGS, ids=_name)
def test_a_configuration_trains_the_tasks_of_its_name(path: Path) -> None:
    assert load_config(path, {}).tasks == path.stem.removesuffix("-maml")


@pytest.mark.parametrize("path", PUBLISHED, ids=_name)
def test_published_maml_is_the_paper_s_algorithm(path: Path) -> None:
    config = load_config(path, {})
    assert (config.method, config.outer_loop) == ("maml", "maml_trpo")
    assert (config.policy.hidden_sizes, config.policy.activation) == ((100, 100), "relu")
    assert config.policy.context_size == 0
    adaptation = config.adaptation
    assert all(adaptation.step_size(name) > 0.0 for name in ("layers.0.weight", "layers.2.bias", "log_std"))
    assert not adaptation.first_order and adaptation.curvature == "log_prob"
    assert adaptation.target_return is None and not adaptation.normalize_gradient
    assert adaptation.trajectories_per_round == 20


@pytest.mark.parametrize("path", PUBLISHED, ids=_name)
def test_a_checkpoint_continues_with_its_configuration_and_no_other_algorithm(path: Path, tmp_path: Path) -> None:
    run = tmp_path / "maml"
    shutil.copytree(TRAINING / "checkpoints" / path.stem / "maml", run)
    before = load_checkpoint(run)
    assert before.warm_start is None

    def with_iterations(**changes: object) -> TrainConfig:
        return load_config(path, {"iterations": before.iteration, **changes})

    for amend in (False, True):
        with pytest.raises(CheckpointError, match="outer_loop is 'promp'; the run began with 'maml_trpo'"):
            train(with_iterations(outer_loop="promp"), run, resume=True, amend=amend)
    after = train(with_iterations(), run, resume=True)
    assert (after.iteration, after.environment_steps) == (before.iteration, before.environment_steps)
    assert all(bool((after.parameters[name] == value).all()) for name, value in before.parameters.items())
