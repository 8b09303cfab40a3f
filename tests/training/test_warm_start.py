"""Meta-training initialized from an oracle: the context replaces the observed task."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.training.tiny import tiny_config
from thetaprime.models.spec import CONTEXT
from thetaprime.training.checkpoint import CheckpointError, load_checkpoint
from thetaprime.training.config import TrainConfig
from thetaprime.training.run import run_policy, run_tasks, train
from thetaprime.training.tasks.oracle import task_vector


def config(method: str, **changes: Any) -> TrainConfig:
    policy = {"hidden_sizes": [16], "context_size": 3, **changes.pop("policy", {})}
    return tiny_config({"method": method, "policy": policy, **changes})


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short oracle's run."""
    folder = tmp_path_factory.mktemp("oracle")
    train(config("oracle"), folder)
    return folder


def test_with_the_task_as_context_the_policy_equals_the_oracle(oracle: Path, tmp_path: Path) -> None:
    told = load_checkpoint(oracle)
    # The oracle's context acts as a bias.
    assert bool((told.parameters[CONTEXT] != 0).any())
    # A tiny trust region leaves θ at its initial value.
    untouched = train(config("maml", iterations=1, max_kl=1e-12), tmp_path, warm_start=oracle)
    distribution, oracles = run_tasks(config("maml")), run_tasks(told.config)
    policy, oracle_policy = run_policy(config("maml"), distribution), run_policy(told.config, oracles)
    observations = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32))
    for task in distribution.sample_tasks(5, np.random.default_rng(1)):
        vector = torch.from_numpy(task_vector(task))
        context = torch.cat([vector, torch.full((3 - len(vector),), 7.0)])
        parameters = {**untouched.parameters, CONTEXT: context}
        expected = oracle_policy.head(told.parameters, torch.cat([observations, vector.expand(20, -1)], dim=1))
        torch.testing.assert_close(policy.head(parameters, observations), expected, atol=1e-4, rtol=1e-4)


def test_the_oracles_steps_count_and_are_recorded(oracle: Path, tmp_path: Path) -> None:
    told = load_checkpoint(oracle)
    assert told.warm_start is None
    seen: list[int] = []
    state = train(
        config("maml"),
        tmp_path / "warm",
        warm_start=oracle,
        on_iteration=lambda now: seen.append(now.environment_steps),
    )
    assert told.environment_steps < seen[0] < seen[-1] == state.environment_steps
    assert state.wall_seconds > told.wall_seconds
    record = load_checkpoint(tmp_path / "warm").warm_start
    assert record is not None
    assert (record.iterations, record.environment_steps) == (told.iteration, told.environment_steps)
    assert record.config["method"] == "oracle"


def test_a_run_that_does_not_fit_is_refused_by_name(oracle: Path, tmp_path: Path) -> None:
    for wrong, message in (
        (config("pretrained"), "method is 'pretrained'; only 'maml'"),
        (
            config("maml", policy={"hidden_sizes": [17]}),
            r"policy.hidden_sizes of that run is \(16,\); expected \(17,\)",
        ),
        (config("maml", policy={"activation": "tanh"}), "policy.activation of that run is 'relu'; expected 'tanh'"),
        (config("maml", policy={"context_size": 1}), "policy.context_size is 1; expected 2 or more"),
        (config("maml", tasks="half-cheetah-velocity"), "tasks of that run is 'point-navigation'"),
    ):
        with pytest.raises(CheckpointError, match=message):
            train(wrong, tmp_path / "wrong", warm_start=oracle)
        assert not (tmp_path / "wrong" / "checkpoint.safetensors").exists()
    train(config("maml", iterations=1), tmp_path / "run", warm_start=oracle)
    with pytest.raises(CheckpointError, match="a warm start begins a new run"):
        train(config("maml", iterations=2), tmp_path / "run", warm_start=oracle, resume=True)
    with pytest.raises(CheckpointError, match="method of that run is 'maml'; expected 'oracle'"):
        train(config("maml", iterations=1), tmp_path / "other", warm_start=tmp_path / "run")
