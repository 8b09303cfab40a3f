"""The horizon of a session: θ's first episodes choose the discount, where rewards come late."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.support.training.tiny import sampled, tiny_config
from thetaprime.models import (
    AdaptationSpec,
    MetaPolicy,
    TrajectoryBatch,
    adapt_step,
    inner_advantages,
    load_meta_policy,
    parameters_digest,
    zoo_directory,
)
from thetaprime.models.verdict import RoundMemory, SessionStep, StepOptions, at_discount, next_step, with_horizon
from thetaprime.models.verdict.episodes import signal_p_value
from thetaprime.models.verdict.horizon import Horizon, chosen, without_most_deviant
from thetaprime.models.verdict.leave_one_out import LeaveOneOut
from thetaprime.training.sampling.sampler import collect
from thetaprime.training.tasks.distributions import resolve_tasks

_GOALS = [[0.3, -0.25], [-0.4, 0.1], [0.2, 0.45], [-0.1, -0.3]]


@pytest.fixture(scope="module")
def navigation() -> MetaPolicy:
    return load_meta_policy(zoo_directory() / "point-navigation" / "1")


@pytest.fixture(scope="module")
def batches(navigation: MetaPolicy) -> list[TrajectoryBatch]:
    tasks, theta = [{"goal": goal} for goal in _GOALS], [navigation.parameters] * len(_GOALS)
    distribution, rng = resolve_tasks("point-navigation"), np.random.default_rng(3)
    return collect(distribution, tasks, navigation.policy, theta, 20, rng=rng)


def _late(batch: TrajectoryBatch) -> TrajectoryBatch:
    """The same episodes, paid in their last step."""
    rewards, ends = torch.zeros_like(batch.rewards), torch.tensor(batch.lengths).cumsum(0) - 1
    rewards[ends] = batch.returns.float()
    return dataclasses.replace(batch, rewards=rewards)


def _chosen(meta_policy: MetaPolicy, batch: TrajectoryBatch, **changes: object) -> AdaptationSpec:
    adaptation = meta_policy.manifest.adaptation.model_copy(update=changes)
    return with_horizon(
        meta_policy.policy, meta_policy.parameters, batch, adaptation, step_sizes=meta_policy.step_sizes
    )


def _first(meta_policy: MetaPolicy, batch: TrajectoryBatch) -> SessionStep:
    theta = meta_policy.parameters
    return next_step(meta_policy, (), batch, theta, lambda number: theta, StepOptions())


@pytest.mark.parametrize(
    ("usual", "others", "expected"),
    [
        # The clearest one,
        ((0.5, 0.3, 0.5), [(0.97, 0.01, 0.5), (1.0, 0.02, 0.5)], 0.97),
        # unless the usual one is nearly as clear.
        ((0.5, 0.3, 0.5), [(0.97, 0.16, 0.5), (1.0, 0.2, 0.5)], 0.5),
        # Advantages of the last steps alone are no gradient, however clear,
        ((0.8, 0.01, 0.02), [(0.97, 0.3, 0.3), (1.0, 0.6, 0.9)], 0.97),
        ((0.8, 0.01, 0.02), [(0.97, 0.3, 0.16), (1.0, 0.6, 0.9)], 1.0),
        # and without another one, the usual one stays.
        ((0.8, 0.9, 0.02), [], 0.8),
    ],
)
def test_the_clearest_horizon_that_covers_the_episodes_is_chosen(
    usual: tuple[float, float, float], others: list[tuple[float, float, float]], expected: float
) -> None:
    assert chosen(Horizon(*usual), [Horizon(*each) for each in others]).discount == expected


def test_one_faulty_trajectory_hides_no_clear_gradient() -> None:
    rng = np.random.default_rng(0)
    values = torch.from_numpy(np.array([1.0, 0.0]) + rng.normal(size=(20, 2)))
    values[4] = torch.tensor([-15.0, 0.0])
    whole = values.mean(0)
    left_out = LeaveOneOut(whole, (20 * whole - values) / 19)
    assert torch.allclose(left_out.pseudo_values, values)
    hidden, found = signal_p_value(left_out), signal_p_value(without_most_deviant(left_out))
    assert hidden is not None and found is not None
    assert hidden > 0.2
    assert found < 0.01


def test_rewards_at_once_keep_the_horizon_of_meta_training(
    navigation: MetaPolicy, batches: list[TrajectoryBatch]
) -> None:
    adaptation, theta = navigation.manifest.adaptation, navigation.parameters
    assert adaptation.late_discounts
    for batch in batches:
        step = _first(navigation, batch)
        assert step.memory.discount is None
        plain = adapt_step(navigation.policy, theta, batch, adaptation, step=0, step_sizes=navigation.step_sizes)
        assert parameters_digest(step.parameters) == parameters_digest(plain.parameters)


def test_rewards_at_the_end_get_a_long_horizon_and_a_step_toward_the_goal(
    navigation: MetaPolicy, batches: list[TrajectoryBatch]
) -> None:
    policy, theta = navigation.policy, navigation.parameters
    cosines, before = [], []
    for batch in batches:
        direct, late, old = (
            _first(meta_policy, each).inner.gradient["context"]
            for meta_policy, each in (
                (navigation, batch),
                (navigation, _late(batch)),
                (_without_late_discounts(navigation), _late(batch)),
            )
        )
        cosines.append(float(torch.cosine_similarity(direct, late, dim=0)))
        before.append(float(torch.cosine_similarity(direct, old, dim=0)))
        discount = _first(navigation, _late(batch)).memory.discount
        assert discount in navigation.manifest.adaptation.late_discounts
        # One inner loop: the step is that of `adapt_step` with this discount.
        spec = at_discount(navigation.manifest.adaptation, discount)
        step = adapt_step(policy, theta, _late(batch), spec, step=0, step_sizes=navigation.step_sizes, length=1.0)
        assert torch.equal(step.gradient["context"], late)
    assert min(cosines) > 0.7
    assert np.mean(before) < 0.5


def _without_late_discounts(meta_policy: MetaPolicy) -> MetaPolicy:
    adaptation = meta_policy.manifest.adaptation.model_copy(update={"late_discounts": ()})
    manifest = meta_policy.manifest.model_copy(update={"adaptation": adaptation})
    return dataclasses.replace(meta_policy, manifest=manifest)


def test_a_session_keeps_the_horizon_of_its_first_round(navigation: MetaPolicy, batches: list[TrajectoryBatch]) -> None:
    late, theta = _late(batches[0]), navigation.parameters
    first = _first(navigation, late)
    memory = RoundMemory.from_bytes(first.memory.to_bytes())
    assert memory == first.memory
    policies = [theta, first.parameters]
    again = next_step(navigation, (memory,), late, policies[1], policies.__getitem__, StepOptions())
    assert again.memory.discount == first.memory.discount
    # Of the second round: the advantages are those of the longer horizon.
    spec = at_discount(navigation.manifest.adaptation, memory.discount)
    assert torch.equal(again.inner.advantage, inner_advantages(navigation.policy, late, spec))


def test_an_artifact_without_other_discounts_and_batches_that_tell_nothing_keep_it(
    navigation: MetaPolicy, batches: list[TrajectoryBatch]
) -> None:
    late = _late(batches[0])
    kept = navigation.manifest.adaptation.discount
    assert _chosen(navigation, late).discount != kept
    assert _chosen(navigation, late, late_discounts=()).discount == kept
    assert _chosen(navigation, late.first(6)).discount == kept
    still = dataclasses.replace(late, rewards=torch.zeros_like(late.rewards))
    assert _chosen(navigation, still).discount == kept
    assert at_discount(navigation.manifest.adaptation, None) is navigation.manifest.adaptation


def test_meta_training_chooses_as_a_session_does() -> None:
    changes = {"policy.context_size": 2, "adaptation.inner_lr": 0.0, "adaptation.late_discounts": [0.9, 1.0]}
    config = tiny_config({**changes, "adaptation.discount": 0.1, "adaptation.trajectories_per_round": 8})
    policy, theta, data = sampled(resolve_tasks("point-navigation"), config)
    discounts = set()
    for task in data:
        (support,) = task.support
        spec = with_horizon(policy, theta, support.batch, config.adaptation)
        assert torch.equal(support.advantages, inner_advantages(policy, support.batch, spec))
        discounts.add(spec.discount)
    # A random policy has hardly any signal: some tasks choose another discount.
    assert discounts - {0.1}


def test_other_discounts_are_between_0_and_1() -> None:
    with pytest.raises(ValueError, match="late_discounts"):
        AdaptationSpec(late_discounts=(0.9, 1.5))
