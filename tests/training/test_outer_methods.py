"""Requirements of every algorithm: it learns, moves step sizes, bounds the KL, and does not depend on threads."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.training.tiny import algorithm_of, meta_objective, meta_update, sampled, tiny_config
from thetaprime.models import Parameters
from thetaprime.training.algorithms import ALGORITHMS
from thetaprime.training.algorithms.objective import flatten
from thetaprime.training.config import TrainConfig, load_config
from thetaprime.training.resources import task_threads
from thetaprime.training.run import run_policy, run_tasks, train
from thetaprime.training.sampling.sampler import TaskData
from thetaprime.training.tasks import resolve_tasks

pytestmark = pytest.mark.usefixtures("one_thread")

METHODS = list(ALGORITHMS)
ADAM = ["promp", "dice"]
SMALL = {
    "tasks": "point-navigation",
    "iterations": 10,
    "meta_batch_size": 8,
    "max_kl": 0.03,
    "outer_lr": 3e-3,
    "fisher_fraction": 1.0,
    "policy.hidden_sizes": [32, 32],
    "policy.activation": "tanh",
    "policy.observation_std": [0.2, 0.2],
    "policy.init_output_scale": 0.01,
    "policy.init_log_std": -1.0,
    "adaptation.discount": 0.5,
    "adaptation.target_return": 0.0,
    "adaptation.return_gap": 40.0,
    "adaptation.trajectories_per_round": 10,
}


def _adapted_return(config: TrainConfig, parameters: Parameters) -> float:
    """Mean return after adaptation on held-out tasks."""
    distribution = run_tasks(config)
    policy = run_policy(config, distribution)
    rng = np.random.default_rng(1000)
    tasks = distribution.sample_tasks(30, rng)
    data = algorithm_of(config, policy).sample_meta_batch(distribution, tasks, parameters, None, rng)
    return float(torch.stack([task.query.returns.mean() for task in data]).mean())


@pytest.mark.slow
@pytest.mark.parametrize("outer_loop", METHODS)
def test_learns_to_adapt(tmp_path: Path, outer_loop: str) -> None:
    config = load_config(None, {**SMALL, "outer_loop": outer_loop, "adaptation.dice_decay": 0.9})
    untrained = _adapted_return(config, run_policy(config, run_tasks(config)).init(config.seed))
    trained = _adapted_return(config, train(config, tmp_path).parameters)
    assert trained > untrained + 5.0, f"after adapting: {untrained} untrained, {trained} trained"


@pytest.mark.parametrize(
    "changes", [{}, {"policy.context_size": 2, "adaptation.inner_lr": 0.0}], ids=["all", "context"]
)
@pytest.mark.parametrize("outer_loop", METHODS)
def test_learned_step_sizes_move_with_any_outer_loop(tmp_path: Path, outer_loop: str, changes: dict[str, Any]) -> None:
    config = tiny_config({"outer_loop": outer_loop, "iterations": 1, "learn_step_sizes": True, **changes})
    state = train(config, tmp_path)
    sizes = state.step_sizes
    assert sizes is not None and set(sizes) == ({"context"} if changes else set(state.parameters))
    for name, size in sizes.items():
        assert bool(size.isfinite().all())
        assert not torch.allclose(size, torch.tensor(config.adaptation.step_size(name)))


@pytest.mark.parametrize("outer_loop", METHODS)
def test_threads_do_not_change_a_bit(outer_loop: str) -> None:
    config = tiny_config({"outer_loop": outer_loop})
    policy, parameters, data = sampled(resolve_tasks("point-navigation"), config)
    found = []
    for threads in (1, 3):
        with task_threads(threads) as map_tasks:
            found.append(meta_update(algorithm_of(config, policy), parameters, data, map_tasks).theta)
    assert all(torch.equal(found[0][name], found[1][name]) for name in parameters)


def test_without_inner_steps_e_maml_is_trpo() -> None:
    changes = {"adaptation.inner_steps": 0, "exploration_credit": 1.0}
    config = tiny_config({**changes, "outer_loop": "e_maml"})
    policy, parameters, data = sampled(resolve_tasks("point-navigation"), config)
    ours = meta_update(algorithm_of(config, policy), parameters, data)
    trpo = meta_update(algorithm_of(tiny_config(changes), policy), parameters, data)
    assert ours.accepted and all(torch.equal(ours.theta[name], trpo.theta[name]) for name in parameters)


def _divergence(config: TrainConfig, parameters: Parameters, data: list[TaskData], moved: Parameters) -> float:
    policy = run_policy(config, run_tasks(config))
    return meta_objective(config, policy, parameters, data).evaluate(flatten(moved))[1]


@pytest.mark.parametrize("outer_loop", ADAM)
@pytest.mark.parametrize("inner_steps", [0, 1])
def test_adam_never_ends_beyond_the_largest_kl(outer_loop: str, inner_steps: int) -> None:
    config = tiny_config({"outer_loop": outer_loop, "outer_lr": 1.0, "adaptation.inner_steps": inner_steps})
    policy, parameters, data = sampled(resolve_tasks("point-navigation"), config)
    unbounded = config.model_copy(update={"max_kl": 1e9})
    unguarded = meta_update(algorithm_of(unbounded, policy), parameters, data)
    assert unguarded.kl_divergence > 10 * config.max_kl

    guarded = meta_update(algorithm_of(config, policy), parameters, data)
    assert guarded.accepted and 0.0 < guarded.kl_divergence <= config.max_kl
    assert _divergence(config, parameters, data, guarded.theta) == pytest.approx(guarded.kl_divergence)
    assert all(bool(value.isfinite().all()) for value in guarded.theta.values())

    # If no halving suffices, the whole update is undone.
    algorithm = algorithm_of(config.model_copy(update={"outer_lr": 1e6}), policy)
    for _ in range(3):
        undone = meta_update(algorithm, parameters, data)
        assert not undone.accepted and undone.kl_divergence == undone.improvement == 0.0
        assert all(torch.equal(undone.theta[name], parameters[name]) for name in parameters)


@pytest.mark.parametrize("outer_loop", ADAM)
def test_a_gradient_that_is_not_finite_changes_nothing(outer_loop: str) -> None:
    config = tiny_config({"outer_loop": outer_loop})
    policy, parameters, data = sampled(resolve_tasks("point-navigation"), config)
    judged = data[0].judged[-1]
    spoilt = dataclasses.replace(judged, advantages=judged.advantages * torch.inf)
    algorithm = algorithm_of(config, policy)
    update = meta_update(algorithm, parameters, [TaskData(data[0].support, [spoilt]), *data[1:]])
    assert not update.accepted and algorithm.optimizer_state == {}
    assert all(torch.equal(update.theta[name], parameters[name]) for name in parameters)


def test_below_the_largest_kl_the_steps_are_adams() -> None:
    config = tiny_config({"outer_loop": "promp", "max_kl": 1e9, "outer_lr": 1e-3, "outer_epochs": 3})
    policy, parameters, data = sampled(resolve_tasks("point-navigation"), config)
    objective = meta_objective(config, policy, parameters, data)
    theta = flatten(parameters).requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=config.outer_lr)
    algorithm, moved = algorithm_of(config, policy), parameters
    for iteration in range(2):
        moved = meta_update(algorithm, moved, data).theta
        if iteration == 0:  # as a checkpoint does
            state, algorithm = algorithm.optimizer_state, algorithm_of(config, policy)
            algorithm.optimizer_state = state
        for _ in range(config.outer_epochs):
            theta.grad = objective.gradient(theta).theta
            optimizer.step()
    torch.testing.assert_close(flatten(moved), theta.detach(), rtol=1e-5, atol=1e-6)


def test_an_outer_loop_implies_its_curvature() -> None:
    assert tiny_config({}).adaptation.curvature == "log_prob"
    assert tiny_config({"adaptation.curvature": "dice"}).adaptation.curvature == "dice"
    for outer_loop, curvature in (("promp", "ratio"), ("e_maml", "log_prob"), ("dice", "dice")):
        config = tiny_config({"outer_loop": outer_loop})
        assert config.adaptation.curvature == curvature
        assert TrainConfig.model_validate_json(config.model_dump_json()) == config
        assert tiny_config({"outer_loop": outer_loop, "adaptation.curvature": curvature}) == config
    assert TrainConfig(tasks="point-navigation", outer_loop="promp").adaptation.curvature == "ratio"
    with pytest.raises(ValueError, match=r"curvature is 'ratio'; outer_loop 'e_maml' needs 'log_prob'"):
        tiny_config({"outer_loop": "e_maml", "adaptation.curvature": "ratio"})
    with pytest.raises(ValueError, match=r"first_order is true; outer_loop 'dice'"):
        tiny_config({"outer_loop": "dice", "adaptation.first_order": True})
    with pytest.raises(ValueError, match=r"outer_loop: Input should be 'maml_trpo', 'promp', 'e_maml' or 'dice'"):
        tiny_config({"outer_loop": "reptile"})
