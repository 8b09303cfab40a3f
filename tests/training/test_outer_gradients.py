"""The gradient of each algorithm on sampled trajectories, against finite differences or another gradient.

Where autograd's gradient is not that of the objective's value (DiCE), see test_outer_expectations.
"""

from typing import Any

import pytest
import torch
from torch.distributions import kl_divergence

from tests.support.training.corridor import CorridorTasks
from tests.support.training.tiny import in_double, meta_objective, sampled, tiny_config
from thetaprime.models.baseline import Regressors, features
from thetaprime.training.algorithms.e_maml import credit_unit
from thetaprime.training.algorithms.maml_trpo import MAML
from thetaprime.training.algorithms.objective import MetaObjective, flatten, log_ratio, policy_at
from thetaprime.training.config import TrainConfig
from thetaprime.training.resources import in_turn
from thetaprime.training.sampling.sampler import TaskData
from thetaprime.training.tasks import TaskDistribution, resolve_tasks

pytestmark = pytest.mark.usefixtures("one_thread")

STEP = 1e-6


@pytest.fixture(params=["box", "discrete"])
def distribution(request: pytest.FixtureRequest) -> TaskDistribution:
    return resolve_tasks("point-navigation") if request.param == "box" else CorridorTasks()


def _objective(
    distribution: TaskDistribution, config: TrainConfig, *, distance: float
) -> tuple[MetaObjective, torch.Tensor, list[TaskData]]:
    """An objective in float64, a θ at some distance from the sampling parameters, and the trajectories."""
    policy, parameters, data = sampled(distribution, config)
    parameters, data = in_double(parameters, data)
    generator = torch.Generator().manual_seed(1)
    theta = flatten(parameters)
    theta = theta + distance * torch.randn(theta.shape, dtype=torch.float64, generator=generator)
    return meta_objective(config, policy, parameters, data), theta, data


@pytest.mark.parametrize(
    "changes",
    [
        # DiCE only here: its inner curvature is that of an expectation, see test_outer_expectations.
        *({"outer_loop": outer_loop, "adaptation.inner_steps": 0} for outer_loop in ("promp", "e_maml", "dice")),
        *({"outer_loop": outer_loop} for outer_loop in ("promp", "e_maml")),
        *(
            {"outer_loop": outer_loop, "adaptation.inner_steps": 2, "multi_step_loss": True}
            for outer_loop in ("promp", "e_maml")
        ),
        *(
            {"outer_loop": outer_loop, "policy.context_size": 2, "adaptation.inner_lr": 0.0}
            for outer_loop in ("promp", "e_maml")
        ),
    ],
    ids=lambda changes: " ".join(map(str, changes.values())),
)
def test_gradient_away_from_the_sampling_parameters_agrees_with_finite_differences(
    distribution: TaskDistribution, changes: dict[str, Any]
) -> None:
    methods = {"clip_range": 0.05, "inner_kl_penalty": 0.5, "exploration_credit": 0.3}
    config = tiny_config({**methods, **changes})
    objective, theta, data = _objective(distribution, config, distance=0.03)
    direction = torch.randn(theta.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    gradient = objective.gradient(theta).theta
    ends = [objective.evaluate(theta + sign * STEP * direction)[0] for sign in (1, -1)]
    assert gradient.dot(direction).item() == pytest.approx((ends[0] - ends[1]) / (2 * STEP), rel=1e-4, abs=1e-8)

    path = objective.path(theta, data[0], create_graph=False)
    ratios = log_ratio(objective.adapted(path, data[0])[-1], data[0].judged[-1]).exp()
    assert bool((ratios > 1.05).any()) and bool(((ratios - 1).abs() < 0.05).any()), "of clip_range's two sides"


@pytest.mark.parametrize("outer_loop", ["promp", "e_maml", "dice"])
def test_step_size_gradient_agrees_with_finite_differences(outer_loop: str) -> None:
    config = tiny_config({"outer_loop": outer_loop, "inner_kl_penalty": 0.5, "exploration_credit": 0.3})
    policy, parameters, data = sampled(resolve_tasks("point-navigation"), config)
    parameters, data = in_double(parameters, data)
    theta = flatten(parameters)
    sizes = {name: torch.full_like(value, 0.3).requires_grad_() for name, value in parameters.items()}
    found = meta_objective(config, policy, parameters, data, sizes).gradient(theta).step_sizes
    assert found is not None
    for name, size in sizes.items():
        losses = []
        for sign in (1, -1):
            moved = {**sizes, name: (size + sign * 1e-5).detach()}
            losses.append(meta_objective(config, policy, parameters, data, moved).evaluate(theta)[0])
        assert found[name].sum().item() == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize(("outer_loop", "curvature"), [("promp", "ratio"), ("dice", "dice")])
def test_at_the_sampling_parameters_the_gradient_is_mamls_with_that_curvature(
    distribution: TaskDistribution, outer_loop: str, curvature: str
) -> None:
    """There every ratio is 1: nothing is clipped, the penalty is at its minimum, the outer □ has slope ∇log π."""
    config = tiny_config({"outer_loop": outer_loop, "adaptation.inner_steps": 2, "inner_kl_penalty": 0.5})
    assert config.adaptation.curvature == curvature
    policy, parameters, data = sampled(distribution, config)
    parameters, data = in_double(parameters, data)
    theta = flatten(parameters)
    found = meta_objective(config, policy, parameters, data).gradient(theta).theta
    maml = MetaObjective(MAML(policy, config), parameters, None, data, in_turn).gradient(theta).theta
    torch.testing.assert_close(found, maml, rtol=1e-3, atol=1e-6)  # π_old was taken in float32


def test_promps_penalty_is_on_the_policies_that_collected_the_support(distribution: TaskDistribution) -> None:
    changes = {"outer_loop": "promp", "adaptation.inner_steps": 2}
    losses = []
    for penalty in (0.0, 1.0):
        objective, theta, data = _objective(
            distribution, tiny_config({**changes, "inner_kl_penalty": penalty}), distance=0.03
        )
        losses.append(objective.evaluate(theta)[0])
    paths = [objective.path(theta, task, create_graph=False) for task in data]
    divergences = [
        kl_divergence(each.behavior, policy_at(objective.algorithm.policy, path, each)).mean()
        for path, task in zip(paths, data, strict=True)
        for each in task.support
    ]
    expected = torch.stack(divergences).mean()
    assert losses[1] - losses[0] == pytest.approx(expected.item(), rel=1e-6)
    assert expected > 1e-4


def test_credit_unit_is_one_over_horizon_and_spread_of_the_advantages() -> None:
    """Point-navigation's trajectories are complete and λ is 1, so it is exact but for the ridge."""
    config = tiny_config({"meta_batch_size": 1, "outer_discount": 0.9})
    _, _, data = sampled(resolve_tasks("point-navigation"), config)
    query = data[0].judged[0]
    remaining: list[float] = []
    for rewards in query.batch.rewards.double().split(query.batch.lengths):
        following, backwards = 0.0, []
        for reward in reversed(rewards.tolist()):
            following = reward + 0.9 * following
            backwards.append(following)
        remaining += reversed(backwards)
    returns = torch.tensor(remaining, dtype=torch.float64)
    constant = 1.0 - 0.9 ** (100.0 - query.batch.time.double())
    rows = features(query.batch.observations, query.batch.time).rows
    residuals = Regressors.of(torch.cat([rows, constant[None]])).residuals(returns, config.adaptation.baseline_ridge)
    horizon = len(remaining) / len(query.batch.lengths)
    assert credit_unit(data, 0.9) == pytest.approx(1.0 / (horizon * residuals.square().mean().sqrt().item()), rel=1e-3)
