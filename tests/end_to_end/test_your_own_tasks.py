"""The examples with a small budget: from a class to a served policy that has learned and adapts."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.training.contract import assert_meets_contract
from thetaprime.models import Policy
from thetaprime.training import load_config
from thetaprime.training.sampling.sampler import collect
from thetaprime.training.tasks import Task, TaskDistribution
from thetaprime.training.tasks.vector_env import WORKERS_VARIABLE

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """torch on one thread: the networks are small, and threads would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _example(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports an example by its name, as its user does."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    # Worker processes are tested elsewhere; here their start would be most of the time.
    monkeypatch.setenv(WORKERS_VARIABLE, "1")
    return importlib.import_module(name)


def _untrained(distribution: TaskDistribution, tasks: list[Task], config: dict[str, Any]) -> float:
    """The mean return of an untrained policy."""
    policy = Policy(distribution.environment, load_config(None, config).policy)
    batches = collect(distribution, tasks, policy, [policy.init(0)] * len(tasks), 10, rng=np.random.default_rng(0))
    return float(np.mean([float(batch.returns.mean()) for batch in batches]))


@pytest.mark.parametrize(
    ("module", "name"), [("pendulum_gravity", "PendulumGravity"), ("cartpole_poles", "CartPolePoles")]
)
def test_the_examples_meet_the_contract(module: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_meets_contract(getattr(_example(module, monkeypatch), name)())


@pytest.mark.slow
@pytest.mark.usefixtures("quick_evaluation")
def test_pendulums_are_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = _example("pendulum_gravity", monkeypatch)
    config = example.CONFIG | {"meta_batch_size": 8, "adaptation.trajectories_per_round": 8, "max_kl": 0.05}
    monkeypatch.setattr(example, "CONFIG", config)
    zoo = example.meta_train(tmp_path, iterations=9, comparisons=1, tasks=2)
    distribution = example.PendulumGravity()
    tasks = distribution.sample_tasks(6, np.random.default_rng(1000))
    untrained = _untrained(distribution, tasks, config)
    adapted = float(np.mean([after for _, after in example.adapt(zoo, tasks)]))
    assert adapted > untrained + 250.0, f"return {untrained:.0f} untrained, {adapted:.0f} trained and adapted"


@pytest.mark.slow
@pytest.mark.usefixtures("quick_evaluation")
def test_carts_are_learned_and_adapted_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = _example("cartpole_poles", monkeypatch)
    config = example.CONFIG | {"max_kl": 0.05}
    monkeypatch.setattr(example, "CONFIG", config)
    zoo = example.meta_train(tmp_path, iterations=9, comparisons=1, tasks=2)
    distribution = example.CartPolePoles()
    tasks = distribution.sample_tasks(6, np.random.default_rng(1000))
    untrained = _untrained(distribution, tasks, config)
    before, adapted = np.mean(list(example.adapt(zoo, tasks)), axis=0)
    assert adapted > untrained + 30.0, f"return {untrained:.0f} untrained, {adapted:.0f} trained and adapted"
    # No observation shows the motor's direction: only adaptation finds it.
    assert adapted > before + 20.0, f"return {before:.0f} before adaptation, {adapted:.0f} after"
