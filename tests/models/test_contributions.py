import dataclasses

import hypothesis
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import strategies as st

from tests.support.models.batches import MakeBatch
from thetaprime.models import (
    AdaptationSpec,
    BoxAction,
    DiscreteAction,
    EnvironmentContract,
    Parameters,
    Policy,
    PolicySpec,
    TrajectoryBatch,
    adapt_step,
    forward_pass,
    inner_advantages,
    moving_parameters,
    reinforce_loss,
    step_derivatives,
    trajectory_contributions,
)


def _contributions(
    policy: Policy,
    parameters: Parameters,
    batch: TrajectoryBatch,
    adaptation: AdaptationSpec,
    sizes: Parameters | None = None,
) -> npt.NDArray[np.float64]:
    step = adapt_step(policy, parameters, batch, adaptation, step=0, step_sizes=sizes)
    return trajectory_contributions(policy, parameters, batch, step)


def _one_by_one(
    policy: Policy,
    parameters: Parameters,
    batch: TrajectoryBatch,
    adaptation: AdaptationSpec,
    sizes: Parameters | None = None,
) -> npt.NDArray[np.float64]:
    """The same from N gradients by autograd, in float64."""
    doubles = {name: value.double() for name, value in parameters.items()}
    actions = batch.actions if batch.actions.dtype == torch.int64 else batch.actions.double()
    batch = dataclasses.replace(batch, observations=batch.observations.double(), actions=actions)
    advantage = inner_advantages(policy, batch, adaptation).double()
    sizes = sizes or {
        name: torch.tensor(size, dtype=torch.float64) for name in doubles if (size := adaptation.step_size(name))
    }
    leaves = {name: doubles[name].requires_grad_() for name in sizes}
    own = []
    for index in range(len(batch.lengths)):
        start, steps = sum(batch.lengths[:index]), batch.lengths[index]
        rows = slice(start, start + steps)
        log_prob = policy.distribution({**doubles, **leaves}, batch.observations[rows]).log_prob(batch.actions[rows])
        loss = -(log_prob * advantage[rows]).sum() / sum(batch.lengths)
        own.append(torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True))
    whole = torch.autograd.grad(
        reinforce_loss({**doubles, **leaves}, policy, batch, advantage), list(leaves.values()), materialize_grads=True
    )
    direction = [sizes[name].double() * value for name, value in zip(leaves, whole, strict=True)]
    parts = np.array(
        [sum(float((a * b).sum()) for a, b in zip(each, direction, strict=True)) for each in own], np.float64
    )
    return parts / parts.sum() if parts.sum() > 1e-10 else np.zeros_like(parts)


def test_derivatives_of_a_step_are_computed_once(policy: Policy, make_batch: MakeBatch) -> None:
    """Formerly three times in each round: for the contributions, for the scores and for the weighty steps."""
    parameters, adaptation = policy.init(0), AdaptationSpec(inner_lr=0.3)
    batch = make_batch(policy, parameters)
    step = adapt_step(policy, parameters, batch, adaptation, step=0)
    first = step_derivatives(policy, parameters, batch, step)
    assert step_derivatives(policy, parameters, batch, step) is first
    other = dataclasses.replace(step, direction={name: 2.0 * value for name, value in step.direction.items()})
    np.testing.assert_allclose(step_derivatives(policy, parameters, batch, other), 2.0 * first, rtol=1e-5, atol=1e-7)


def test_contributions_equal_those_of_single_gradients(policy: Policy, make_batch: MakeBatch) -> None:
    parameters, adaptation = policy.init(0), AdaptationSpec(inner_lr=0.3)
    batch = make_batch(policy, parameters)
    np.testing.assert_allclose(
        _contributions(policy, parameters, batch, adaptation),
        _one_by_one(policy, parameters, batch, adaptation),
        rtol=1e-3,
        atol=1e-4,
    )


@pytest.mark.slow
@hypothesis.given(
    discrete=st.booleans(),
    context=st.integers(0, 2),
    context_alone=st.booleans(),
    hidden=st.lists(st.integers(1, 6), max_size=2),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    learned=st.booleans(),
    floor=st.sampled_from([-13.8, 0.5]),
    seed=st.integers(0, 1000),
)
@hypothesis.settings(max_examples=60)
def test_contributions_equal_those_of_single_gradients_for_every_policy(
    discrete: bool,
    context: int,
    context_alone: bool,
    hidden: list[int],
    lengths: list[int],
    learned: bool,
    floor: float,
    seed: int,
) -> None:
    action = DiscreteAction(count=3) if discrete else BoxAction(low=(-1.0, -1.0), high=(1.0, 1.0))
    contract = EnvironmentContract(environment_id="test", observation_shape=(3,), action=action, horizon=12)
    spec = PolicySpec(hidden_sizes=tuple(hidden), activation="tanh", context_size=context, min_log_std=floor)
    policy = Policy(contract, spec)
    generator = torch.Generator().manual_seed(seed)
    parameters = policy.init(seed)
    if context:
        parameters["context"] = torch.randn(context, generator=generator)
    rng = np.random.default_rng(seed)
    observations = [rng.normal(size=(n, 3)).astype(np.float32) for n in lengths]
    batch = TrajectoryBatch.concatenate(
        observations,
        [policy.sample(parameters, torch.from_numpy(o), generator).numpy() for o in observations],
        [rng.normal(size=n).astype(np.float32) for n in lengths],
        [n < 12 for n in lengths],
        [rng.normal(size=3).astype(np.float32) for _ in lengths],
    )
    adaptation = AdaptationSpec(inner_lr=0.0 if context and context_alone else 0.2, context_lr=0.7)
    sizes = None
    if learned:
        moving = moving_parameters(parameters, adaptation, None)
        sizes = {
            name: torch.rand(value.shape, generator=generator) for name, value in parameters.items() if name in moving
        }
    expected = _one_by_one(policy, parameters, batch, adaptation, sizes)
    # Where trajectories all but cancel, rounding decides about the contributions.
    hypothesis.assume(expected.any() and np.abs(expected).max() < 20)
    found = _contributions(policy, parameters, batch, adaptation, sizes)
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2)
    assert found.sum() == pytest.approx(1.0)


def test_a_trajectory_that_alone_was_rewarded_contributes_most(policy: Policy, make_batch: MakeBatch) -> None:
    parameters = policy.init(0)
    batch = make_batch(policy, parameters, lengths=(12, 12, 12, 12))
    rewards = torch.zeros_like(batch.rewards)
    rewards[24:36] = torch.linspace(0, 5, 12)
    contributions = _contributions(policy, parameters, dataclasses.replace(batch, rewards=rewards), AdaptationSpec())
    assert contributions.argmax() == 2


def test_contributions_are_zero_if_all_advantages_are_equal(policy: Policy, make_batch: MakeBatch) -> None:
    parameters = policy.init(0)
    batch = make_batch(policy, parameters, lengths=(12, 12))
    same = dataclasses.replace(batch, rewards=torch.zeros_like(batch.rewards))
    assert _contributions(policy, parameters, same, AdaptationSpec()).tolist() == [0.0, 0.0]


def test_a_given_forward_pass_leaves_the_step_as_it_is(policy: Policy, make_batch: MakeBatch) -> None:
    parameters, adaptation = policy.init(0), AdaptationSpec()
    batch = make_batch(policy, parameters)
    plain = adapt_step(policy, parameters, batch, adaptation, step=0)
    forward = forward_pass(policy, parameters, batch, parameters)
    given = adapt_step(policy, parameters, batch, adaptation, step=0, forward=forward)
    assert all(torch.equal(plain.parameters[name], given.parameters[name]) for name in parameters)


def test_a_step_with_a_graph_is_refused(policy: Policy, make_batch: MakeBatch) -> None:
    parameters = policy.init(0)
    batch = make_batch(policy, parameters)
    step = adapt_step(policy, parameters, batch, AdaptationSpec(), step=0, create_graph=True)
    with pytest.raises(ValueError, match="create_graph=False"):
        trajectory_contributions(policy, parameters, batch, step)
