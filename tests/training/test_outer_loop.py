import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import kl_divergence

from tests.support.training.corridor import CorridorTasks
from tests.support.training.tiny import (
    algorithm_of,
    in_double,
    meta_objective,
    meta_update,
    sampled,
    tiny_config,
)
from thetaprime.training.algorithms import trpo
from thetaprime.training.algorithms.objective import flatten, unflatten
from thetaprime.training.algorithms.trpo import FisherProduct, conjugate_gradient, line_search
from thetaprime.training.config import OuterLoopName, TrainConfig
from thetaprime.training.tasks import TaskDistribution, resolve_tasks

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=["box", "discrete"])
def distribution(request: pytest.FixtureRequest) -> TaskDistribution:
    return resolve_tasks("point-navigation") if request.param == "box" else CorridorTasks()


def _steps(config: TrainConfig, count: int) -> TrainConfig:
    return config.model_copy(update={"adaptation": config.adaptation.model_copy(update={"inner_steps": count})})


@pytest.mark.parametrize("inner_steps", [0, 1, 2])
def test_before_the_first_step_the_kl_is_zero(
    distribution: TaskDistribution, tiny: TrainConfig, inner_steps: int
) -> None:
    """The ratios are to the policy that collected the query trajectories, which is the adapted policy."""
    config = _steps(tiny, inner_steps)
    policy, parameters, data = sampled(distribution, config)
    loss, divergence = meta_objective(config, policy, parameters, data).evaluate(flatten(parameters))
    assert divergence == pytest.approx(0.0, abs=1e-6)
    assert loss == pytest.approx(0.0, abs=1e-4)  # the mean of the advantages, since all ratios are 1


@pytest.mark.parametrize(("inner_steps", "multi_step_loss"), [(0, False), (1, False), (2, False), (2, True)])
def test_outer_gradient_and_fisher_product_agree_with_finite_differences(
    distribution: TaskDistribution, tiny: TrainConfig, inner_steps: int, multi_step_loss: bool
) -> None:
    config = _steps(tiny, inner_steps).model_copy(update={"multi_step_loss": multi_step_loss})
    policy, parameters, data = sampled(distribution, config)
    parameters, data = in_double(parameters, data)
    objective = meta_objective(config, policy, parameters, data)
    theta = flatten(parameters)
    direction = torch.randn(theta.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    loss, gradient, _ = objective.gradient(theta)
    assert loss == pytest.approx(objective.evaluate(theta)[0], rel=1e-9, abs=1e-12)
    ends = [objective.evaluate(theta + sign * 1e-6 * direction)[0] for sign in (1, -1)]
    assert gradient.dot(direction).item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-8)

    # The Fisher product is the derivative of the KL's gradient, both taken at θ.
    here = [objective.adapted(objective.path(theta, task, create_graph=False), task) for task in data]

    def slope(position: torch.Tensor) -> torch.Tensor:
        point = position.detach().requires_grad_()
        total = torch.stack(
            [
                kl_divergence(old, new).mean()
                for before, task in zip(here, data, strict=True)
                for old, new in zip(
                    before, objective.adapted(objective.path(point, task, create_graph=True), task), strict=True
                )
            ]
        ).mean()
        return torch.autograd.grad(total, point)[0]

    expected = (slope(theta + 1e-5 * direction) - slope(theta - 1e-5 * direction)) / 2e-5
    torch.testing.assert_close(FisherProduct(objective)(direction), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("outer_loop", ["maml_trpo", "e_maml"])
def test_a_cheaper_fisher_product_takes_a_part_of_every_task_s_trajectories(
    distribution: TaskDistribution, outer_loop: OuterLoopName
) -> None:
    config = tiny_config({"outer_loop": outer_loop, "adaptation.inner_steps": 2, "multi_step_loss": True})
    policy, parameters, data = sampled(distribution, config)
    half = config.model_copy(update={"fisher_fraction": 0.5})
    direction = torch.randn(flatten(parameters).shape, generator=torch.Generator().manual_seed(0))
    found = FisherProduct(meta_objective(half, policy, parameters, data))(direction)
    parts = [task.first(0.5) for task in data]
    for part, task in zip(parts, data, strict=True):
        for fewer, collected in zip((*part.support, *part.judged), (*task.support, *task.judged), strict=True):
            steps = sum(collected.batch.lengths[:2])
            assert fewer.batch.lengths == collected.batch.lengths[:2]
            assert fewer.advantages.tolist() == collected.advantages[:steps].tolist()
            taken = collected.batch.actions
            torch.testing.assert_close(
                fewer.behavior.log_prob(taken[:steps]), collected.behavior.log_prob(taken)[:steps]
            )
            assert (fewer.credit is None) == (collected.credit is None)
    torch.testing.assert_close(found, FisherProduct(meta_objective(config, policy, parameters, parts))(direction))
    # Each task has its share: without one, the product is another.
    by_task = [FisherProduct(meta_objective(config, policy, parameters, [part]))(direction) for part in parts]
    torch.testing.assert_close(found, torch.stack(by_task).mean(0), rtol=1e-4, atol=1e-6)
    assert all(float(each.norm()) > 0.0 for each in by_task)
    assert [len(each.batch.lengths) for each in data[0].first(0.01).support] == [1, 1]


@pytest.mark.parametrize("size", [2, 10])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"adaptation.curvature": "ratio", "adaptation.adapted_std_factor": 0.5},
        {"policy.context_size": 2, "adaptation.inner_lr": 0.0},
        # A factor or a norm of each task's own.
        {"adaptation.curvature": "dice"},
        {"adaptation.target_return": 1.0, "adaptation.return_gap": 40.0},
        {"adaptation.normalize_gradient": True},
    ],
    ids=lambda settings: next(iter(settings), "plain"),
)
def test_tasks_that_share_a_graph_have_the_fisher_product_of_single_ones(
    distribution: TaskDistribution, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], size: int
) -> None:
    monkeypatch.setattr(trpo, "_TASKS_AT_ONCE", size)
    config = tiny_config({"adaptation.inner_steps": 2, "multi_step_loss": True, **settings})
    policy, parameters, data = sampled(distribution, config)
    lengths = {len(each.batch.rewards) for task in data for each in task.judged}
    assert len(lengths) > 1 or not isinstance(distribution, CorridorTasks)  # so there is padding
    direction = torch.randn(flatten(parameters).shape, generator=torch.Generator().manual_seed(0))
    found = FisherProduct(meta_objective(config, policy, parameters, data))(direction)
    alone = [FisherProduct(meta_objective(config, policy, parameters, [task]))(direction) for task in data]
    assert float(found.norm()) > 0.0
    torch.testing.assert_close(found, torch.stack(alone).mean(0), rtol=1e-4, atol=1e-6)


def test_step_size_gradient_agrees_with_finite_differences(tiny: TrainConfig) -> None:
    distribution = resolve_tasks("point-navigation")
    policy, parameters, data = sampled(distribution, tiny)
    parameters, data = in_double(parameters, data)
    sizes = {name: torch.full_like(value, 0.3).requires_grad_() for name, value in parameters.items()}
    theta = flatten(parameters)
    found = meta_objective(tiny, policy, parameters, data, sizes).gradient(theta).step_sizes
    assert found is not None
    for name, size in sizes.items():
        losses = []
        for sign in (1, -1):
            moved = {**sizes, name: (size + sign * 1e-5).detach()}
            losses.append(meta_objective(tiny, policy, parameters, data, moved).evaluate(theta)[0])
        assert found[name].sum().item() == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-4, abs=1e-8)


def test_an_outer_step_improves_within_the_trust_region(distribution: TaskDistribution, tiny: TrainConfig) -> None:
    policy, parameters, data = sampled(distribution, tiny)
    update = meta_update(algorithm_of(tiny, policy), parameters, data)
    assert update.accepted
    loss, divergence = meta_objective(tiny, policy, parameters, data).evaluate(flatten(update.theta))
    assert loss < 0.0
    assert 0.0 < divergence <= tiny.max_kl


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 8), seed=st.integers(0, 10_000))
def test_conjugate_gradient_solves(size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, dtype=torch.float64, generator=generator)
    matrix = root @ root.T + torch.eye(size, dtype=torch.float64)
    target = torch.randn(size, dtype=torch.float64, generator=generator)
    found, _ = conjugate_gradient(lambda v: matrix @ v, target, iterations=3 * size, damping=0.0, tolerance=1e-24)
    torch.testing.assert_close(matrix @ found, target, rtol=1e-6, atol=1e-6)
    early, left = conjugate_gradient(lambda v: matrix @ v, target, iterations=1, damping=0.0)
    torch.testing.assert_close(target - matrix @ early, left)


def test_a_step_that_does_not_improve_is_rejected() -> None:
    start = torch.tensor([1.0, -1.0])
    uphill = line_search(start, 2.0, -start, 2.0, lambda x: (float(x.dot(x)), 0.0), max_kl=0.1)
    assert not uphill.accepted and torch.equal(uphill.theta, start)
    no_curvature = line_search(start, 2.0, start, 0.0, lambda x: (0.0, 0.0), max_kl=0.1)
    assert not no_curvature.accepted and torch.equal(no_curvature.theta, start)


def test_a_step_is_shortened_until_the_kl_is_within_the_trust_region() -> None:
    """The quadratic model underestimates the KL: F is the identity, and the true curvature is ten times larger."""
    start = torch.tensor([2.0, 0.0])
    outcome = line_search(
        start,
        2.0,
        start,
        4.0,
        lambda x: (float(x.dot(x)) / 2, 5.0 * float((x - start).square().sum())),
        max_kl=0.01,
    )
    assert outcome.accepted and outcome.backtracks > 0 and 0.0 < outcome.kl_divergence <= 0.01


def test_flatten_and_unflatten_are_inverse() -> None:
    parameters = {"a": torch.randn(2, 3), "b": torch.randn(4)}
    again = unflatten(flatten(parameters), parameters)
    assert all(torch.equal(parameters[name], again[name]) for name in parameters)
