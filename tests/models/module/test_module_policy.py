"""A policy of any module adapts as the built-in network does."""

from typing import Any, Final

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.models import modules
from tests.support.models.batches import MakeBatch
from thetaprime.models import (
    AdaptationSpec,
    BoxAction,
    DiscreteAction,
    EnvironmentContract,
    Parameters,
    Policy,
    PolicySpec,
    adapt_step,
    step_derivatives,
)
from thetaprime.models.contributions import context_derivatives
from thetaprime.models.module.capture import capture_module
from thetaprime.models.module.policy import ModulePolicy

_BOX: Final = EnvironmentContract(
    environment_id="test", observation_shape=(3,), action=BoxAction(low=(-0.1, -2.0), high=(0.1, 1.0)), horizon=12
)
_DISCRETE: Final = _BOX.model_copy(update={"action": DiscreteAction(count=3, start=1)})
_SPEC: Final = PolicySpec(
    hidden_sizes=(32, 32), activation="tanh", observation_mean=(0.1, -0.2, 0.0), observation_std=(0.5, 2.0, 1.0)
)


class WithContext(nn.Module):
    """Appends the context to the observation, as the built-in network does."""

    def __init__(self, observation_shape: tuple[int, ...], outputs: int, context_size: int) -> None:
        super().__init__()
        self.network = modules.Mlp((observation_shape[0] + context_size,), outputs)

    def forward(self, observations: torch.Tensor, contexts: torch.Tensor) -> torch.Tensor:
        """[B, O], [B, C] -> [B, outputs]."""
        result: torch.Tensor = self.network(torch.cat([observations, contexts], -1))
        return result


def _policy(module: Any, environment: EnvironmentContract, spec: PolicySpec) -> ModulePolicy:
    context = [spec.context_size] if spec.context_size else []
    arguments: Any = (environment.observation_shape, environment.action.size, *context)
    return ModulePolicy(environment, spec, capture_module(module(*arguments), *arguments), lambda: module(*arguments))


def _built_in(policy: ModulePolicy, parameters: Parameters) -> tuple[Policy, Parameters]:
    """The built-in policy that a `modules.Mlp` equals, and its parameters."""
    built_in = Policy(policy.environment, policy.spec)
    size = policy.environment.observation_size
    renamed = {}
    for name, value in parameters.items():
        name = name.removeprefix("network.").replace("layers.2.", "layers.1.").replace("head.", "layers.2.")
        if name == "layers.0.weight" and policy.spec.context_size:
            renamed["context.weight"] = value[:, size:].contiguous()
            value = value[:, :size].contiguous()
        renamed[name] = value
    return built_in, {name: renamed[name] for name in built_in.parameter_shapes}


@pytest.fixture(scope="module", params=["box", "discrete"])
def policy(request: pytest.FixtureRequest) -> ModulePolicy:
    return _policy(modules.Mlp, _BOX if request.param == "box" else _DISCRETE, _SPEC)


def test_a_module_takes_the_step_of_the_equal_built_in_network_bit_for_bit(
    policy: ModulePolicy, make_batch: MakeBatch
) -> None:
    parameters = policy.init(0)
    built_in, renamed = _built_in(policy, parameters)
    batch = make_batch(built_in, renamed, lengths=(12,) * 10)
    adaptation = AdaptationSpec(inner_lr=0.5)
    step = adapt_step(policy, parameters, batch, adaptation, step=0)
    expected = adapt_step(built_in, renamed, batch, adaptation, step=0)
    _, moved = _built_in(policy, step.parameters)
    for name, value in expected.parameters.items():
        assert torch.equal(moved[name], value), name
    assert not torch.equal(moved["layers.0.weight"], renamed["layers.0.weight"])
    found = step_derivatives(policy, parameters, batch, step)
    np.testing.assert_allclose(found, step_derivatives(built_in, renamed, batch, expected), rtol=1e-4, atol=1e-8)


def test_a_context_enters_a_module_as_it_enters_the_built_in_network(make_batch: MakeBatch) -> None:
    policy = _policy(WithContext, _BOX, _SPEC.model_copy(update={"context_size": 4}))
    parameters = policy.init(0)
    parameters["context"] = torch.tensor([0.3, -0.1, 0.5, 0.2])
    built_in, renamed = _built_in(policy, parameters)
    batch = make_batch(built_in, renamed, lengths=(12,) * 10)
    adaptation = AdaptationSpec(inner_lr=0.0, context_lr=0.5)
    step = adapt_step(policy, parameters, batch, adaptation, step=0)
    expected = adapt_step(built_in, renamed, batch, adaptation, step=0)
    assert step.gradient.keys() == {"context"}
    torch.testing.assert_close(step.parameters["context"], expected.parameters["context"], rtol=1e-5, atol=1e-7)
    assert float((step.parameters["context"] - parameters["context"]).abs().max()) > 1e-4
    found = context_derivatives(policy, parameters, batch, step)
    torch.testing.assert_close(found, context_derivatives(built_in, renamed, batch, expected), rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(found.sum(0), step.gradient["context"], rtol=1e-4, atol=1e-7)


def test_several_tasks_are_evaluated_side_by_side(policy: ModulePolicy) -> None:
    tasks = [policy.init(seed) for seed in range(3)]
    stacked = {name: torch.stack([each[name] for each in tasks]) for name in tasks[0]}
    observations = torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(0))
    found = policy.head(stacked, observations)
    expected = torch.stack([policy.head(each, rows) for each, rows in zip(tasks, observations, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_initial_parameters_follow_from_the_seed_alone(policy: ModulePolicy) -> None:
    before = torch.random.get_rng_state()
    first, second, other = policy.init(1), policy.init(1), policy.init(2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert list(first) == list(policy.parameter_shapes)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_only_the_named_parameters_adapt(policy: ModulePolicy, make_batch: MakeBatch) -> None:
    parameters = policy.init(0)
    batch = make_batch(policy, parameters)
    adaptation = AdaptationSpec(inner_lr=0.5, adapted_parameters=("head.*",))
    moved = adapt_step(policy, parameters, batch, adaptation, step=0).parameters
    changed = {name for name, value in moved.items() if not torch.equal(value, parameters[name])}
    assert changed == {"head.weight", "head.bias"}


def test_a_parameter_with_the_name_of_the_noise_is_refused() -> None:
    class Noisy(modules.Linear):
        def __init__(self) -> None:
            super().__init__()
            self.log_std = nn.Parameter(torch.zeros(2))

        def forward(self, observations: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.linear(observations) + self.log_std
            return result

    program = capture_module(Noisy(), (3,), 2)
    with pytest.raises(ValueError, match="a parameter named log_std, which is the name of the policy's noise"):
        ModulePolicy(_BOX, PolicySpec(module="any:Noisy"), program)
