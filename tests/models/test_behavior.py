import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thetaprime.models import (
    BoxAction,
    DiscreteAction,
    EnvironmentContract,
    Policy,
    PolicySpec,
    TrajectoryBatch,
    behavior_evidence,
)


def _policy(*, discrete: bool) -> Policy:
    action = DiscreteAction(count=4) if discrete else BoxAction(low=(-0.1, -0.1), high=(0.1, 0.1))
    environment = EnvironmentContract(environment_id="test", observation_shape=(3,), action=action, horizon=100)
    return Policy(environment, PolicySpec(hidden_sizes=(16,)))


def _honest(policy: Policy, seed: int, lengths: tuple[int, ...] = (100, 3, 40)) -> TrajectoryBatch:
    generator = torch.Generator().manual_seed(seed)
    observations = torch.randn(sum(lengths), 3, generator=generator)
    return TrajectoryBatch(
        observations=observations,
        actions=policy.sample(policy.init(0), observations, generator),
        rewards=torch.zeros(sum(lengths)),
        lengths=lengths,
        terminated=torch.zeros(len(lengths), dtype=torch.bool),
        final_observations=torch.zeros(len(lengths), 3),
    )


def _reasons(policy: Policy, batch: TrajectoryBatch) -> set[tuple[int | None, str]]:
    return {(doubt.trajectory, doubt.reason) for doubt in behavior_evidence(policy, policy.init(0), batch)}


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), discrete=st.booleans())
def test_honest_trajectories_pass(seed: int, discrete: bool) -> None:
    policy = _policy(discrete=discrete)
    assert _reasons(policy, _honest(policy, seed)) == set()


def test_deterministic_actions_are_refused() -> None:
    for discrete in (False, True):
        policy = _policy(discrete=discrete)
        batch = _honest(policy, 0)
        head = policy.head(policy.init(0), batch.observations)
        actions = head.argmax(-1) if discrete else head
        assert (0, "DETERMINISTIC_ACTIONS") in _reasons(policy, dataclasses.replace(batch, actions=actions))


def test_one_dishonest_trajectory_among_honest_ones_is_found() -> None:
    policy = _policy(discrete=False)
    batch = _honest(policy, 0)
    actions = batch.actions.clone()
    actions[103:] = policy.head(policy.init(0), batch.observations[103:])
    assert (2, "DETERMINISTIC_ACTIONS") in _reasons(policy, dataclasses.replace(batch, actions=actions))


def test_scaled_and_clipped_actions_are_refused() -> None:
    policy = _policy(discrete=False)
    batch = _honest(policy, 0)
    scaled = dataclasses.replace(batch, actions=batch.actions * 0.1)
    sent = dataclasses.replace(batch, actions=policy.to_environment(batch.actions))
    clipped = dataclasses.replace(batch, actions=batch.actions.clamp(-1, 1))
    assert (0, "UNSCALED_ACTIONS") in _reasons(policy, scaled)
    assert (0, "UNSCALED_ACTIONS") in _reasons(policy, sent)
    assert (0, "CLIPPED_ACTIONS") in _reasons(policy, clipped)


@pytest.mark.parametrize("discrete", [False, True])
def test_another_policy_and_scaled_observations_are_refused(discrete: bool) -> None:
    policy = _policy(discrete=discrete)
    lengths = (100,) * 20
    batch = _honest(policy, 0, lengths)
    scaled = dataclasses.replace(batch, observations=batch.observations * 20.0)
    assert (None, "OFF_POLICY") in _reasons(policy, scaled)
