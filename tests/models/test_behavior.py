import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thetaprime.models import (
    BoxAction,
    DiscreteAction,
    EnvironmentContract,
    Parameters,
    Policy,
    PolicySpec,
    TrajectoryBatch,
    behavior_evidence,
    measure_behavior,
)
from thetaprime.models.behavior import round_evidence, statistics_test


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


def _split(batch: TrajectoryBatch, sizes: list[int]) -> list[TrajectoryBatch]:
    """Whole trajectories in groups of the given sizes."""
    parts, start, step = [], 0, 0
    for size in sizes:
        lengths = batch.lengths[start : start + size]
        steps = slice(step, step + sum(lengths))
        parts.append(
            dataclasses.replace(
                batch,
                observations=batch.observations[steps],
                actions=batch.actions[steps],
                rewards=batch.rewards[steps],
                lengths=lengths,
                terminated=batch.terminated[start : start + size],
                final_observations=batch.final_observations[start : start + size],
            )
        )
        start, step = start + size, steps.stop
    return parts


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    discrete=st.booleans(),
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    data=st.data(),
)
def test_the_statistics_of_a_whole_are_the_sums_of_its_parts(
    seed: int, discrete: bool, lengths: list[int], data: st.DataObject
) -> None:
    policy = _policy(discrete=discrete)
    # At most 256 steps: the previous policy is evaluated at all of them.
    parameters, earlier = policy.init(0), [policy.init(1)]
    batch = _honest(policy, seed, tuple(lengths))
    sizes: list[int] = []
    while sum(sizes) < len(lengths):
        sizes.append(data.draw(st.integers(1, len(lengths) - sum(sizes))))
    whole = measure_behavior(policy, parameters, batch, earlier=earlier)
    parts = [measure_behavior(policy, parameters, each, earlier=earlier) for each in _split(batch, sizes)]
    pooled = np.sum([each.statistics for each in parts], axis=0)
    np.testing.assert_allclose(pooled, whole.statistics, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(
        round_evidence(policy, pooled[None]), round_evidence(policy, whole.statistics[None]), rtol=1e-3, atol=1e-3
    )
    np.testing.assert_allclose(np.concatenate([each.noise for each in parts]), whole.noise, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("discrete", [False, True])
def test_each_alternative_has_the_mean_likelihood_ratio_1(discrete: bool) -> None:
    """More than 1 in the mean, and a round could be refused by chance alone."""
    policy = _policy(discrete=discrete)
    batch = _honest(policy, 3, (2,) * 20_000)
    measured = measure_behavior(policy, policy.init(0), batch, earlier=[policy.init(1), policy.init(2)])
    ratios = np.exp(round_evidence(policy, measured.trajectories))
    count = len(ratios) ** 0.5
    assert ratios.mean() < 1 + 4 * ratios.std() / count
    groups = statistics_test(policy).log_ratios(measured.trajectories)
    assert sum(weight for weight, _ in groups.values()) <= 1 + 1e-9
    for name, (_, logs) in groups.items():
        ratio = np.exp(logs)
        assert (ratio.mean(axis=0) < 1 + 1e-6 + 5 * ratio.std(axis=0) / count).all(), name


def test_numbers_that_overflow_are_refused() -> None:
    policy = _policy(discrete=False)
    batch = _honest(policy, 0)
    batch.actions[5] = 3e38
    assert (0, "OFF_POLICY") in _reasons(policy, batch)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("held", "equal the action before"),
        ("lagged", "successive actions has correlation"),
        ("shared", "noise of the dimensions"),
        ("still", "policy's mean in one dimension"),
        ("truncated", "beyond ±2"),
    ],
)
def test_other_mistakes_are_named(case: str, words: str) -> None:
    policy, lengths = _policy(discrete=False), (100,) * 20
    batch = _honest(policy, 0, lengths)
    mean = policy.head(policy.init(0), batch.observations)
    noise = batch.actions - mean
    actions = {
        "held": batch.actions.reshape(1000, 2, 2)[:, :1].expand(-1, 2, -1).reshape(2000, 2),
        "lagged": mean + torch.cat([noise[:1], 0.7 * noise[1:] + 0.51**0.5 * noise[:-1]]) / 1.0,
        "shared": mean + noise[:, :1],
        "still": torch.where(torch.tensor([True, False]) & (noise[:, 1:] > 0.6), mean, batch.actions),
        "truncated": mean + noise.clamp(-1.9, 1.9),
    }[case]
    messages = [
        doubt.message
        for doubt in behavior_evidence(policy, policy.init(0), dataclasses.replace(batch, actions=actions))
    ]
    assert words in messages[-1]


def test_a_pair_of_dimensions_with_one_noise_is_named() -> None:
    environment = EnvironmentContract(
        environment_id="test", observation_shape=(3,), action=BoxAction(low=(-1.0,) * 6, high=(1.0,) * 6), horizon=100
    )
    policy = Policy(environment, PolicySpec(hidden_sizes=(16,)))
    batch = _honest(policy, 0, (100,) * 20)
    mean = policy.head(policy.init(0), batch.observations)
    noise = batch.actions - mean
    noise[:, 4] = noise[:, 1]
    (doubt, *_) = behavior_evidence(policy, policy.init(0), dataclasses.replace(batch, actions=mean + noise))
    assert "two dimensions" in doubt.message


@pytest.mark.parametrize("discrete", [False, True])
def test_the_likelihood_ratios_of_earlier_policies_are_among_the_alternatives(discrete: bool) -> None:
    policy = _policy(discrete=discrete)
    named, earlier = policy.init(0), [policy.init(1), policy.init(2)]
    batch = _honest(policy, 0, (60,))
    measured = measure_behavior(policy, named, batch, earlier=earlier)
    _, found = statistics_test(policy).log_ratios(measured.trajectories)["earlier"]

    def log_likelihood(parameters: Parameters) -> float:
        return float(policy.distribution(parameters, batch.observations).log_prob(batch.actions).sum())

    expected = [log_likelihood(each) - log_likelihood(named) for each in earlier]
    np.testing.assert_allclose(found, [expected], rtol=1e-4)
