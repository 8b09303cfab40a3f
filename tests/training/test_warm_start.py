"""Meta-training initialized from an oracle, and an oracle from a meta-policy: the context is the observed task."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.training.tiny import tiny_config
from thetaprime.models import load_meta_policy, resolve_meta_policy
from thetaprime.models.spec import CONTEXT
from thetaprime.training.algorithms.warm_start import warm_started_oracle
from thetaprime.training.checkpoint import CheckpointError, load_checkpoint
from thetaprime.training.config import TrainConfig, load_config
from thetaprime.training.run import run_policy, run_tasks, train
from thetaprime.training.sampling.sampler import collect
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
        (config("pretrained"), "method is 'pretrained'; only 'maml', 'oracle' and 'rl2' begin"),
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


def zoo_config(method: str, changes: dict[str, Any] | None = None) -> TrainConfig:
    """The shipped configuration of navigation."""
    file = Path(__file__).parents[2] / "training" / "configs" / "point-navigation.toml"
    return load_config(file, {"method": method, "iterations": 1, "max_kl": 1e-12, **(changes or {})})


@pytest.mark.slow
def test_an_oracle_begins_where_adaptation_arrives(tmp_path: Path) -> None:
    meta_policy = load_meta_policy(resolve_meta_policy("point-navigation"))
    settings = zoo_config("oracle", {"meta_batch_size": 2})
    state = train(settings, tmp_path, warm_start=resolve_meta_policy("point-navigation"))
    record = load_checkpoint(tmp_path).warm_start
    assert record is not None
    assert record.config["method"] == "maml"
    # The episodes that it adapted on count, too: 40 tasks of 20 trajectories of at most 100 steps.
    assert meta_policy.manifest.provenance.environment_steps + 4000 < state.environment_steps
    distribution, plain = run_tasks(settings), run_tasks(zoo_config("maml"))
    tasks = list(plain.sample_tasks(6, np.random.default_rng(7)))
    policy = run_policy(settings, distribution)
    told = collect(distribution, tasks, policy, [state.parameters] * 6, 5, rng=np.random.default_rng(8))
    theta = [meta_policy.parameters] * 6
    untold = collect(plain, tasks, meta_policy.policy, theta, 5, rng=np.random.default_rng(8))
    # Without the task, θ returns about -37, and θ′ about -0.8.
    assert np.mean([float(batch.returns.mean()) for batch in told]) > -4.0
    assert np.mean([float(batch.returns.mean()) for batch in untold]) < -20.0


def test_a_meta_policy_that_gives_no_oracle_is_refused_by_name(oracle: Path, tmp_path: Path) -> None:
    meta_policy = load_meta_policy(resolve_meta_policy("point-navigation"))
    distribution = run_tasks(zoo_config("maml"))
    for changes, message in (
        ({"policy.context_size": 5}, r"policy.context_size of point-navigation@1 is 2; expected 5"),
        ({"policy.hidden_sizes": [8]}, r"policy.hidden_sizes of point-navigation@1 is .*; expected \(8,\)"),
        ({"tasks": "ant-direction"}, "tasks of point-navigation@1 is 'point-navigation'; expected 'ant-direction'"),
    ):
        with pytest.raises(CheckpointError, match=message):
            warm_started_oracle(meta_policy, zoo_config("oracle", changes), distribution, np.random.default_rng(0))
    maml = load_meta_policy(resolve_meta_policy("point-navigation-maml"))
    with pytest.raises(CheckpointError, match="point-navigation-maml@1 has no context"):
        warm_started_oracle(maml, zoo_config("oracle"), distribution, np.random.default_rng(0))
    with pytest.raises(CheckpointError, match="an oracle begins from an artifact"):
        train(zoo_config("oracle"), tmp_path, warm_start=oracle)
