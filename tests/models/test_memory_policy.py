"""Policies that remember: their cells, and what a memory reads and keeps."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from thetaprime.models import (
    BoxAction,
    DiscreteAction,
    EnvironmentContract,
    MemoryInputs,
    MemorySpec,
    Parameters,
    Policy,
    PolicySpec,
    RecurrentPolicy,
)

BOX = BoxAction(low=(-2.0, float("-inf")), high=(4.0, float("inf")))
DISCRETE = DiscreteAction(count=3, start=5)
STEPS, ROBOTS, OBSERVATION = 6, 4, 3
CELLS = ("gru", "lstm")


def _policy(cell: str, action: Any = BOX, **changes: Any) -> RecurrentPolicy:
    memory = MemorySpec.model_validate({"cell": cell, "size": 5, **changes.pop("memory", {})})
    environment = EnvironmentContract(environment_id="any", observation_shape=(3,), action=action, horizon=10)
    spec = PolicySpec(hidden_sizes=(7,), activation="tanh", memory=memory, **changes)
    return RecurrentPolicy(environment, spec)


def _parameters(policy: RecurrentPolicy, dtype: torch.dtype = torch.float32) -> Parameters:
    """Parameters that are all different from zero."""
    generator = torch.Generator().manual_seed(3)
    return {
        name: (value + 0.3 * torch.randn(value.shape, generator=generator)).to(dtype)
        for name, value in policy.init(0).items()
    }


def _inputs(policy: RecurrentPolicy, dtype: torch.dtype = torch.float32) -> MemoryInputs:
    generator = torch.Generator().manual_seed(7)
    rows = (STEPS, ROBOTS)
    actions = torch.randn(*rows, 2, generator=generator, dtype=dtype)
    if not policy.continuous:
        actions = torch.randint(-1, 3, rows, generator=generator)
    return MemoryInputs(
        torch.randn(*rows, OBSERVATION, generator=generator, dtype=dtype),
        actions,
        torch.randn(rows, generator=generator, dtype=dtype),
        (torch.rand(rows, generator=generator) < 0.3).to(dtype),
    )


def _at(inputs: MemoryInputs, index: Any) -> MemoryInputs:
    return MemoryInputs(*(getattr(inputs, field.name)[index] for field in dataclasses.fields(inputs)))


@pytest.mark.parametrize(("cell", "theirs"), [("gru", torch.nn.GRU), ("lstm", torch.nn.LSTM)])
@pytest.mark.parametrize("action", [BOX, DISCRETE])
def test_the_cells_are_those_of_torch(cell: str, theirs: type[Any], action: Any) -> None:
    policy = _policy(cell, action, memory={"reward_scale": 0.25}, observation_mean=(1.0, 2.0, 3.0))
    parameters, inputs = _parameters(policy), _inputs(policy)
    state = policy.initial_state(parameters, ROBOTS)
    _, remembered, last = policy.unroll(parameters, inputs, state)

    actions = inputs.previous_actions
    if not policy.continuous:
        actions = torch.nn.functional.one_hot(actions + 1, 4)[..., 1:]
    read = torch.cat(
        [
            inputs.observations - torch.tensor([1.0, 2.0, 3.0]),
            actions,
            0.25 * inputs.previous_rewards[..., None],
            inputs.episode_starts[..., None],
        ],
        -1,
    )
    network = theirs(read.shape[-1], 5)
    weights = {f"{name}_l0": parameters[f"memory.{name}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    network.load_state_dict(weights)
    hidden = tuple(each[None].contiguous() for each in state)
    expected, after = network(read, hidden if cell == "lstm" else hidden[0])
    torch.testing.assert_close(remembered, expected, rtol=0.0, atol=1e-6)
    for found, wanted in zip(last, after if cell == "lstm" else (after,), strict=True):
        torch.testing.assert_close(found, wanted[0], rtol=0.0, atol=2e-6)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("action", [BOX, DISCRETE])
def test_unrolling_is_stepping_with_resets_where_lifetimes_begin(cell: str, action: Any) -> None:
    policy = _policy(cell, action, memory={"encoder_sizes": (6,)}, context_size=2)
    parameters, inputs = _parameters(policy), _inputs(policy)
    starts = torch.rand(STEPS, ROBOTS, generator=torch.Generator().manual_seed(0)) < 0.3
    assert starts.any(0).any()
    assert not starts.all(1).any()
    initial = policy.initial_state(parameters, ROBOTS)
    state = tuple(torch.ones_like(each) for each in initial)
    outputs, _, last = policy.unroll(parameters, inputs, state, starts)
    for index in range(STEPS):
        state = tuple(torch.where(starts[index, :, None], a, b) for a, b in zip(initial, state, strict=True))
        one, state = policy.step(parameters, _at(inputs, index), state)
        torch.testing.assert_close(one[0], outputs[0][index])
    for found, wanted in zip(last, state, strict=True):
        torch.testing.assert_close(found, wanted)


def test_nothing_came_before_the_first_step_of_a_lifetime() -> None:
    observations = torch.randn(2, OBSERVATION)
    box = _policy("gru").first_inputs(observations)
    assert not box.previous_actions.any()
    assert not box.previous_rewards.any()
    assert not box.episode_starts.any()
    assert _policy("gru", DISCRETE).first_inputs(observations).previous_actions.tolist() == [-1, -1]


@pytest.mark.parametrize("cell", CELLS)
def test_tasks_take_their_own_parameters_along_an_axis_or_by_vmap(cell: str) -> None:
    policy = _policy(cell, memory={"encoder_sizes": (6,)})
    each = [_parameters(policy), {name: 0.5 * value for name, value in _parameters(policy).items()}]
    stacked = {name: torch.stack([one[name] for one in each]) for name in each[0]}
    inputs = _inputs(policy)

    def unrolled(parameters: Parameters) -> torch.Tensor:
        return policy.unroll(parameters, inputs, policy.initial_state(parameters, ROBOTS))[0][0]

    expected = torch.stack([unrolled(one) for one in each])
    torch.testing.assert_close(torch.func.vmap(unrolled)(stacked), expected)
    both = _at(inputs, 0)
    both = MemoryInputs(*(torch.stack([getattr(both, field.name)] * 2) for field in dataclasses.fields(both)))
    outputs, _ = policy.step(stacked, both, policy.initial_state(stacked, ROBOTS))
    torch.testing.assert_close(outputs[0], expected[:, 0])


@pytest.mark.parametrize("cell", CELLS)
def test_derivatives_of_both_orders_go_through_time_to_the_initial_state(cell: str) -> None:
    policy = _policy(cell)
    parameters, inputs = _parameters(policy, torch.float64), _at(_inputs(policy, torch.float64), slice(0, 3))
    names = [name for name in parameters if name.startswith("memory.")]

    def squares(*values: torch.Tensor) -> torch.Tensor:
        point = {**parameters, **dict(zip(names, values, strict=True))}
        outputs, _, _ = policy.unroll(point, inputs, policy.initial_state(point, ROBOTS))
        return outputs[0].square().mean((0, 1))

    leaves = tuple(parameters[name].requires_grad_() for name in names)
    assert torch.autograd.gradcheck(squares, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(squares, leaves, fast_mode=True)
    (gradient,) = torch.autograd.grad(squares(*leaves).sum(), parameters["memory.initial"])
    assert gradient.abs().min() > 0.0


def test_actions_of_the_environment_become_the_policys() -> None:
    policy = _policy("gru")
    chosen = torch.tensor([[0.5, 3.0], [-1.0, -7.0], [4.0, 0.0]])
    expected = torch.tensor([[0.5, 3.0], [-1.0, -7.0], [1.0, 0.0]])
    torch.testing.assert_close(policy.from_environment(policy.to_environment(chosen)), expected)
    discrete = _policy("gru", DISCRETE)
    numbers = torch.arange(3)
    assert discrete.to_environment(numbers).tolist() == [5, 6, 7]
    assert discrete.from_environment(discrete.to_environment(numbers)).equal(numbers)


@pytest.mark.parametrize("cell", CELLS)
def test_the_shapes_are_those_of_the_parameters(cell: str) -> None:
    policy = _policy(cell, memory={"encoder_sizes": (6, 4)}, context_size=2)
    parameters = policy.init(1)
    assert {name: tuple(value.shape) for name, value in parameters.items()} == policy.parameter_shapes
    assert list(parameters) == list(policy.parameter_shapes)
    assert not parameters["memory.initial"].any()
    hidden = parameters["memory.weight_hh"][:5]
    torch.testing.assert_close(hidden @ hidden.T, torch.eye(5), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "spec", "message"),
    [
        (Policy, PolicySpec(memory=MemorySpec()), "policy.memory is 'gru'; expected no memory"),
        (RecurrentPolicy, PolicySpec(), "policy.memory is not set; expected a memory"),
        (RecurrentPolicy, PolicySpec(memory=MemorySpec(), module="a:B"), "policy.module is 'a:B'; expected the built"),
    ],
)
def test_a_policy_and_its_memory_must_fit(make: Callable[..., Any], spec: PolicySpec, message: str) -> None:
    environment = EnvironmentContract(environment_id="any", observation_shape=(3,), action=BOX, horizon=10)
    with pytest.raises(ValueError, match=message):
        make(environment, spec)
