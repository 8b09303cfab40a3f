"""A module of the user's is meta-trained as the built-in network is."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from thetaprime.models.module.graph_writer import ModuleError
from thetaprime.models.module.policy import ModulePolicy
from thetaprime.training.config import TrainConfig, load_config
from thetaprime.training.evaluation.curves import adaptation_curve
from thetaprime.training.run import run_policy, run_tasks, train

_SMALL: Final[dict[str, Any]] = {
    "tasks": "point-navigation",
    "seed": 0,
    "iterations": 8,
    "meta_batch_size": 8,
    "max_kl": 0.03,
    "fisher_fraction": 1.0,
    "policy.module": "tests.support.models.modules:Mlp",
    "policy.observation_std": [0.2, 0.2],
    "policy.init_log_std": -1.0,
    "adaptation.inner_lr": 0.1,
    "adaptation.discount": 0.5,
    "adaptation.target_return": 0.0,
    "adaptation.return_gap": 40.0,
    "adaptation.trajectories_per_round": 10,
}


def _config(**changes: Any) -> TrainConfig:
    return load_config(None, {**_SMALL, **changes})


@pytest.mark.slow
def test_meta_training_of_a_module_improves_the_return_after_one_gradient_step(tmp_path: Path) -> None:
    config = _config()
    distribution = run_tasks(config)
    policy = run_policy(config, distribution)
    assert isinstance(policy, ModulePolicy)
    trained = train(config, tmp_path)
    means = [
        adaptation_curve(
            distribution,
            distribution.sample_tasks(20, np.random.default_rng(1)),
            policy,
            parameters,
            None,
            config.adaptation,
            gradient_steps=1,
            trajectories=10,
            seed=1,
        ).mean(1)
        for parameters in (policy.init(config.seed), trained.parameters)
    ]
    assert means[1][1] > means[0][1] + 3.0, f"after one step {means[0][1]} untrained, {means[1][1]} trained"
    assert means[1][1] > means[1][0] + 10.0


_BAD = {
    "tests.support.models.modules": "expected package.module:Class",
    "tests.support.models.modules:Missing": "cannot be imported: .*Missing",
    "no.such.package:Net": "cannot be imported: No module named 'no'",
    "tests.support.models.modules:Film": r"cannot be made with \(observation_shape, outputs\) = \(\(2,\), 2\)",
    "pathlib:PurePath": "cannot be made with",
    "fractions:gcd": "cannot be imported",
    "tests.support.models.modules:Centered": "combines observations",
}


@pytest.mark.parametrize(("module", "message"), _BAD.items())
def test_a_bad_module_is_refused_before_training(tmp_path: Path, module: str, message: str) -> None:
    with pytest.raises(ModuleError, match=message):
        train(_config(**{"policy.module": module}), tmp_path)


def test_patterns_that_name_no_parameter_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"adaptation.adapted_parameters: 'hed\.\*' names no parameter; expected .*head"
    ):
        train(_config(**{"adaptation.adapted_parameters": ["head.*", "hed.*"]}), tmp_path)
