import dataclasses
import functools

import numpy as np
import pytest
import torch
from torch.autograd.functional import hessian

from tests.support.models.batches import MakeBatch
from thetaprime.models import (
    AdaptationSpec,
    NonFiniteStepError,
    Parameters,
    Policy,
    TrajectoryBatch,
    adapt_path,
    adapt_step,
    check_finite,
    inner_advantages,
    parameters_from_bytes,
    parameters_to_bytes,
    reinforce_loss,
    summarize_step,
)
from thetaprime.models.inner_loop import InnerStep, part_direction
from thetaprime.models.spec import Curvature

ADAPTATION = AdaptationSpec(inner_lr=0.3, inner_lr_schedule=(1.0, 0.5), discount=0.95)


def _double(parameters: Parameters) -> Parameters:
    return {name: value.double() for name, value in parameters.items()}


def _double_batch(batch: TrajectoryBatch) -> TrajectoryBatch:
    actions = batch.actions if batch.actions.dtype == torch.int64 else batch.actions.double()
    return dataclasses.replace(batch, observations=batch.observations.double(), actions=actions)


def test_gradient_agrees_with_finite_differences(policy: Policy, make_batch: MakeBatch) -> None:
    parameters = policy.init(0)
    batch = _double_batch(make_batch(policy, parameters))
    parameters = _double(parameters)
    advantage = inner_advantages(policy, batch, ADAPTATION).double()
    gradient = adapt_step(policy, parameters, batch, ADAPTATION, step=0, advantage=advantage).gradient
    for name, value in parameters.items():
        direction = torch.randn(value.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        ends = [
            reinforce_loss({**parameters, name: value + sign * 1e-6 * direction}, policy, batch, advantage)
            for sign in (1, -1)
        ]
        slope = (ends[0] - ends[1]) / 2e-6
        assert (gradient[name] * direction).sum().item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("curvature", ["log_prob", "ratio"])
def test_derivative_through_two_steps_agrees_with_finite_differences(
    policy: Policy, make_batch: MakeBatch, curvature: str
) -> None:
    """Only with the paper's form is θ′ a plain function of θ, which finite differences can test."""
    parameters = policy.init(0)
    batches = [_double_batch(make_batch(policy, parameters, seed)) for seed in range(2)]
    advantage = [inner_advantages(policy, batch, ADAPTATION).double() for batch in batches]
    spec = ADAPTATION.model_copy(update={"curvature": curvature})
    parameters = _double(parameters)

    def outcome(current: Parameters, *, create_graph: bool) -> torch.Tensor:
        adapted = adapt_path(policy, current, batches, spec, create_graph=create_graph, inner_advantage=advantage)[-1]
        return torch.stack([value.square().sum() for value in adapted.values()]).sum()

    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    slopes = torch.autograd.grad(outcome(leaves, create_graph=True), list(leaves.values()))
    agreements = []
    for (name, value), slope in zip(parameters.items(), slopes, strict=True):
        direction = torch.randn(value.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        ends = [
            outcome({**parameters, name: value + sign * 1e-6 * direction}, create_graph=False).item()
            for sign in (1, -1)
        ]
        difference = (ends[0] - ends[1]) / 2e-6
        agreements.append((slope * direction).sum().item() == pytest.approx(difference, rel=1e-4, abs=1e-7))
    # The ratio form adds the sampling distribution's share of the curvature, which no fixed batch can show.
    assert all(agreements) if curvature == "log_prob" else not all(agreements)


def test_ratio_curvature_adds_the_outer_product_of_scores(policy: Policy, make_batch: MakeBatch) -> None:
    """∇²(π/stop π) = ∇²log π + ∇log π ∇log πᵀ (Rothfuss et al. 2019, section 5)."""
    parameters = _double(policy.init(0))
    batch = _double_batch(make_batch(policy, policy.init(0), lengths=(3, 2)))
    advantage = torch.arange(5, dtype=torch.float64) - 2.0
    bias = "layers.2.bias"

    def loss(value: torch.Tensor, curvature: Curvature) -> torch.Tensor:
        return reinforce_loss({**parameters, bias: value}, policy, batch, advantage, curvature)

    def scores(value: torch.Tensor) -> torch.Tensor:
        return policy.distribution({**parameters, bias: value}, batch.observations).log_prob(batch.actions)

    jacobian = torch.autograd.functional.jacobian(scores, parameters[bias])
    added = -torch.einsum("s,si,sj->ij", advantage, jacobian, jacobian) / 5
    plain = hessian(lambda value: loss(value, "log_prob"), parameters[bias])
    ratio = hessian(lambda value: loss(value, "ratio"), parameters[bias])
    torch.testing.assert_close(ratio, plain + added)


def test_dice_curvature_adds_earlier_actions(policy: Policy, make_batch: MakeBatch) -> None:
    """Beside the ratio's terms, A_t (∇l_t ∇p_tᵀ + ∇p_t ∇l_tᵀ) with p_t the decayed sum of earlier log-probabilities."""
    parameters = _double(policy.init(0))
    batch = _double_batch(make_batch(policy, policy.init(0), lengths=(3, 2)))
    advantage = torch.arange(5, dtype=torch.float64) - 2.0
    bias, decay = "layers.2.bias", 0.7

    def loss(value: torch.Tensor, curvature: Curvature) -> torch.Tensor:
        return reinforce_loss({**parameters, bias: value}, policy, batch, advantage, curvature, decay)

    def scores(value: torch.Tensor) -> torch.Tensor:
        return policy.distribution({**parameters, bias: value}, batch.observations).log_prob(batch.actions)

    now = torch.autograd.functional.jacobian(scores, parameters[bias])
    past = torch.zeros_like(now)
    past[1], past[2], past[4] = decay * now[0], decay * now[1] + decay**2 * now[0], decay * now[3]
    cross = torch.einsum("s,si,sj->ij", advantage, now, past)
    ratio, dice = (hessian(functools.partial(loss, curvature=c), parameters[bias]) for c in ("ratio", "dice"))
    torch.testing.assert_close(dice, ratio - (cross + cross.T) / 5)


def test_every_curvature_gives_the_same_step(policy: Policy, make_batch: MakeBatch) -> None:
    parameters = policy.init(0)
    batch = make_batch(policy, parameters)
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    plain = adapt_step(policy, parameters, batch, ADAPTATION, step=0).parameters
    for curvature in ("log_prob", "ratio", "dice"):
        spec = ADAPTATION.model_copy(update={"curvature": curvature})
        step = adapt_step(policy, leaves, batch, spec, step=0, create_graph=True).parameters
        assert all(torch.equal(step[name], plain[name]) for name in parameters), curvature


@pytest.mark.parametrize("trajectories", [4, 20])
def test_training_and_serving_compute_the_same_bits(policy: Policy, make_batch: MakeBatch, trajectories: int) -> None:
    """Meta-training keeps the graph, the server does not; θ′ is the same to the last bit."""
    parameters = policy.init(0)
    lengths = (12, 5, 12, 9) * (trajectories // 4)
    batches = [make_batch(policy, parameters, seed, lengths) for seed in range(3)]
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    trained = adapt_path(policy, leaves, batches, ADAPTATION, create_graph=True)[-1]
    served = adapt_path(policy, parameters, batches, ADAPTATION)[-1]
    assert all(torch.equal(trained[name], served[name]) for name in parameters)
    assert all(value.requires_grad for value in trained.values())
    assert not any(value.requires_grad for value in served.values())


def test_first_order_treats_the_gradient_as_a_constant(policy: Policy, make_batch: MakeBatch) -> None:
    parameters = policy.init(0)
    batch = make_batch(policy, parameters)
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    spec = ADAPTATION.model_copy(update={"first_order": True})
    adapted = adapt_path(policy, leaves, [batch], spec, create_graph=True)[-1]
    total = torch.stack([value.sum() for value in adapted.values()]).sum()
    for slope in torch.autograd.grad(total, list(leaves.values())):
        torch.testing.assert_close(slope, torch.ones_like(slope))


def test_schedule_scale_and_learned_step_sizes(policy: Policy, make_batch: MakeBatch) -> None:
    parameters = policy.init(0)
    batch = make_batch(policy, parameters)
    gradient = adapt_step(policy, parameters, batch, ADAPTATION, step=0).gradient
    sizes = {name: torch.rand_like(value) for name, value in parameters.items()}
    for step, factor in ((0, 1.0), (1, 0.5), (7, 0.5)):
        plain = adapt_step(policy, parameters, batch, ADAPTATION, step=step, scale=2.0).parameters
        learned = adapt_step(policy, parameters, batch, ADAPTATION, step=step, step_sizes=sizes).parameters
        for name, value in parameters.items():
            torch.testing.assert_close(plain[name], value - 2.0 * factor * 0.3 * gradient[name])
            torch.testing.assert_close(learned[name], value - factor * sizes[name] * gradient[name])


def test_step_sizes_follow_the_gap_to_the_target_return(policy: Policy, make_batch: MakeBatch) -> None:
    parameters = policy.init(0)
    batch = make_batch(policy, parameters)
    mean_return = batch.returns.mean().item()
    gradient = adapt_step(policy, parameters, batch, ADAPTATION, step=0).gradient
    for target, factor in ((mean_return + 6.0, 1.5), (mean_return - 1.0, 0.0)):
        spec = ADAPTATION.model_copy(update={"target_return": target, "return_gap": 4.0})
        adapted = adapt_step(policy, parameters, batch, spec, step=0).parameters
        for name, value in parameters.items():
            torch.testing.assert_close(adapted[name], value - factor * 0.3 * gradient[name])


def test_parameters_without_a_step_size_do_not_move(make_batch: MakeBatch, policy: Policy) -> None:
    contextual = Policy(policy.environment, policy.spec.model_copy(update={"context_size": 3}))
    parameters = contextual.init(0)
    batch = make_batch(contextual, parameters)
    whole = adapt_step(contextual, parameters, batch, ADAPTATION, step=0)
    sizes = {"context": torch.full((3,), 2.0)}
    alone = ADAPTATION.model_copy(update={"inner_lr": 0.0, "context_lr": 2.0})
    for taken in (
        adapt_step(contextual, parameters, batch, alone, step=0),
        adapt_step(contextual, parameters, batch, ADAPTATION, step=0, step_sizes=sizes),
    ):
        assert taken.gradient.keys() == {"context"}
        torch.testing.assert_close(taken.gradient["context"], whole.gradient["context"])
        torch.testing.assert_close(taken.parameters["context"], parameters["context"] - 2.0 * whole.gradient["context"])
        others = parameters.keys() - {"context"}
        assert all(torch.equal(taken.parameters[name], parameters[name]) for name in others)


def test_a_normalized_gradient_gives_a_step_of_the_step_size(policy: Policy, make_batch: MakeBatch) -> None:
    parameters = policy.init(0)
    batch = make_batch(policy, parameters)
    plain = adapt_step(policy, parameters, batch, ADAPTATION, step=1)
    spec = ADAPTATION.model_copy(update={"normalize_gradient": True})
    normalized = adapt_step(policy, parameters, batch, spec, step=1)
    norm = torch.cat([value.flatten() for value in plain.gradient.values()]).norm()
    for name, value in parameters.items():
        torch.testing.assert_close(normalized.parameters[name], value - 0.3 * 0.5 * plain.gradient[name] / norm)
        torch.testing.assert_close(normalized.gradient[name], plain.gradient[name])
    alike = dataclasses.replace(batch, rewards=torch.zeros_like(batch.rewards))
    resting = adapt_step(policy, parameters, alike, spec, step=0).parameters
    assert all(torch.equal(resting[name], parameters[name]) for name in parameters)


def test_a_normalized_step_does_not_depend_on_the_order_of_parameters(policy: Policy, make_batch: MakeBatch) -> None:
    """A safetensors file gives the parameters in random order, and a float32 sum depends on it."""
    parameters = policy.init(0)
    batch = make_batch(policy, parameters)
    spec = ADAPTATION.model_copy(update={"normalize_gradient": True})
    expected = adapt_step(policy, parameters, batch, spec, step=0)
    rng = np.random.default_rng(0)
    for _ in range(40):
        shuffled = {str(name): parameters[str(name)] for name in rng.permutation(list(parameters))}
        found = adapt_step(policy, shuffled, batch, spec, step=0)
        assert all(torch.equal(found.parameters[name], expected.parameters[name]) for name in parameters)
        summary = summarize_step(policy, shuffled, found, batch)
        assert summary.gradient_norm == summarize_step(policy, parameters, expected, batch).gradient_norm


def test_parameters_come_from_bytes_in_the_order_of_names(policy: Policy) -> None:
    data = parameters_to_bytes(policy.init(0))
    assert all(list(parameters_from_bytes(data)) == sorted(policy.init(0)) for _ in range(20))


def test_the_first_step_reduces_the_noise(policy: Policy, make_batch: MakeBatch) -> None:
    parameters = policy.init(0)
    batch = make_batch(policy, parameters)
    spec = ADAPTATION.model_copy(update={"adapted_std_factor": 0.25})
    for step, factor in ((0, 0.25), (1, 1.0), (2, 1.0)):
        as_noisy = adapt_step(policy, parameters, batch, ADAPTATION, step=step)
        taken = adapt_step(policy, parameters, batch, spec, step=step)
        if policy.continuous:
            ratio = (policy.log_std(taken.parameters) - policy.log_std(as_noisy.parameters)).exp()
            torch.testing.assert_close(ratio, torch.full_like(ratio, factor))
        others = parameters.keys() - {"log_std"}
        assert all(torch.equal(taken.parameters[name], as_noisy.parameters[name]) for name in others)


@pytest.mark.parametrize("context", [0, 2])
def test_the_direction_of_a_part_is_that_of_a_step_on_the_part(
    policy: Policy, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch, context: int
) -> None:
    policy = Policy(policy.environment, policy.spec.model_copy(update={"context_size": context}))
    parameters = policy.init(0)
    batch = make_batch(policy, parameters, lengths=(12, 5, 12, 9, 12, 12, 3, 12))
    sizes = {name: torch.tensor(0.1) for name in parameters if name != "layers.0.weight"}
    whole = adapt_step(policy, parameters, batch, ADAPTATION, step=0, step_sizes=sizes)
    part = batch.select([1, 3, 4, 7])
    expected = adapt_step(policy, parameters, part, ADAPTATION, step=0, step_sizes=sizes).direction

    def direction(step: InnerStep) -> Parameters:
        return part_direction(policy, parameters, step, part, batch.steps_of([1, 3, 4, 7]), ADAPTATION, sizes)

    # A step whose derivatives are lost, as where its advantage is 0, is computed anew.
    lost = dataclasses.replace(whole, advantage=whole.advantage.where(batch.time > 0, torch.tensor(0.0)))
    slow = direction(lost)
    monkeypatch.setattr("thetaprime.models.inner_loop.adapt_step", None)
    for found in (direction(whole), slow):
        assert found.keys() == expected.keys() == sizes.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


def test_a_step_on_the_first_trajectories_ignores_the_others(policy: Policy, make_batch: MakeBatch) -> None:
    parameters = policy.init(0)
    whole, part = make_batch(policy, parameters), make_batch(policy, parameters, lengths=(12, 5))
    # Drawn one after another, actions of the first trajectories do not depend on how many follow; rewards do.
    part = dataclasses.replace(part, observations=whole.observations[:17], actions=whole.actions[:17])
    part = dataclasses.replace(part, rewards=whole.rewards[:17], final_observations=whole.final_observations[:2])
    ours = adapt_step(policy, parameters, whole.first(2), ADAPTATION, step=0).parameters
    # What was computed of the whole batch serves again.
    assert whole.first(len(whole.lengths)) is whole
    theirs = adapt_step(policy, parameters, part, ADAPTATION, step=0).parameters
    assert all(torch.equal(ours[name], theirs[name]) for name in parameters)
    assert whole.first(9).lengths == whole.lengths


def test_log_std_is_adapted(make_batch: MakeBatch, policy: Policy) -> None:
    parameters = policy.init(0)
    adapted = adapt_step(policy, parameters, make_batch(policy, parameters), ADAPTATION, step=0).parameters
    assert all(not torch.equal(adapted[name], parameters[name]) for name in parameters)


def test_the_summary_of_an_unchanged_policy_has_no_divergence(policy: Policy, make_batch: MakeBatch) -> None:
    parameters = policy.init(0)
    batch = make_batch(policy, parameters)
    step = adapt_step(policy, parameters, batch, ADAPTATION, step=0)
    moved = summarize_step(policy, parameters, step, batch)
    still = summarize_step(policy, parameters, dataclasses.replace(step, parameters=parameters), batch)
    assert still.kl_divergence == pytest.approx(0.0, abs=1e-7) and moved.kl_divergence > 1e-5
    norm = torch.cat([value.flatten() for value in step.gradient.values()]).norm().item()
    assert moved.gradient_norm == pytest.approx(norm, rel=1e-5)


def test_a_non_finite_parameter_is_named(policy: Policy) -> None:
    parameters = policy.init(0)
    check_finite(parameters)
    with pytest.raises(NonFiniteStepError, match=r"layers\.1\.bias"):
        check_finite({**parameters, "layers.1.bias": torch.tensor([float("inf")])})
