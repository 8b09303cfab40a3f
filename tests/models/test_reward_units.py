"""A step depends on what the rewards say, not on their units."""

import dataclasses
import itertools
import math

import pytest
import torch

from tests.support.models.batches import MakeBatch
from thetaprime.models import (
    AdaptationSpec,
    Parameters,
    Policy,
    RewardContract,
    RewardDeviation,
    TrajectoryBatch,
    adapt_step,
    inner_advantages,
    reward_deviation,
    reward_signal,
)
from thetaprime.models.baseline import Regressors
from thetaprime.models.reward_units import ReturnGap, return_gap, reward_scale
from thetaprime.models.trajectories import baseline_inputs

HORIZON = 12
PLAIN = AdaptationSpec(inner_lr=0.3, discount=0.5)
TARGETED = PLAIN.model_copy(update={"target_return": 20.0, "return_gap": 10.0, "normalize_gradient": True})


def _with_rewards(batch: TrajectoryBatch, scale: float, offset: float = 0.0) -> TrajectoryBatch:
    return dataclasses.replace(batch, rewards=batch.rewards * scale + offset)


def _contract(batch: TrajectoryBatch, returns: tuple[float, float] = (-40.0, 15.0)) -> RewardContract:
    """The contract of meta-training tasks whose rewards deviate about as those of the batch do."""
    deviation = reward_deviation(batch, PLAIN.baseline_ridge)
    known = RewardDeviation(median=deviation, low=0.9 * deviation, high=1.1 * deviation)
    return RewardContract(formula="test", return_range=returns, deviation=(known,))


def _told(policy: Policy, reward: RewardContract) -> Policy:
    return Policy(policy.environment.model_copy(update={"reward": reward}), policy.spec)


def _whole(policy: Policy, make_batch: MakeBatch, seed: int = 0) -> tuple[Parameters, TrajectoryBatch]:
    """θ and eight episodes of one length."""
    parameters = policy.init(0)
    return parameters, make_batch(policy, parameters, seed, (HORIZON,) * 8)


@pytest.mark.parametrize("scale", [1e-30, 0.01, 100.0, 1e30])
def test_advantages_do_not_depend_on_the_scale(policy: Policy, make_batch: MakeBatch, scale: float) -> None:
    parameters = policy.init(0)
    batch = make_batch(policy, parameters)  # episodes of several lengths
    expected = inner_advantages(policy, batch, PLAIN)
    found = inner_advantages(policy, _with_rewards(batch, scale), PLAIN)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("offset", [-5.0, 1.0, 1000.0])
def test_advantages_of_whole_episodes_do_not_depend_on_the_offset(
    policy: Policy, make_batch: MakeBatch, offset: float
) -> None:
    _, batch = _whole(policy, make_batch)
    expected = inner_advantages(policy, batch, PLAIN)
    found = inner_advantages(policy, _with_rewards(batch, 1.0, offset), PLAIN)
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0.01)


@pytest.mark.parametrize("reward", [0.0, 1.0, -3.0, 1e30, -1e-30])
def test_constant_rewards_move_nothing(policy: Policy, make_batch: MakeBatch, reward: float) -> None:
    parameters, batch = _whole(policy, make_batch)
    told = _told(policy, _contract(batch))
    constant = _with_rewards(batch, 0.0, reward)
    assert reward_deviation(constant, PLAIN.baseline_ridge) == 0.0
    for spec in (PLAIN, TARGETED):
        adapted = adapt_step(told, parameters, constant, spec, step=0).parameters
        for name, value in parameters.items():
            assert torch.equal(adapted[name], value)


@pytest.mark.parametrize("scale", [1e-30, 0.01, 0.1, 10.0, 100.0, 1e30])
def test_a_step_toward_a_target_return_does_not_depend_on_the_scale(
    policy: Policy, make_batch: MakeBatch, scale: float
) -> None:
    parameters, batch = _whole(policy, make_batch)
    told = _told(policy, _contract(batch))
    expected = adapt_step(told, parameters, batch, TARGETED, step=0).parameters
    adapted = adapt_step(told, parameters, _with_rewards(batch, scale), TARGETED, step=0).parameters
    for name, value in parameters.items():
        assert not torch.equal(expected[name], value)
        torch.testing.assert_close(adapted[name], expected[name], atol=1e-5, rtol=1e-4)


def test_usual_deviations_leave_a_step_as_it_is_to_the_bit(policy: Policy, make_batch: MakeBatch) -> None:
    parameters, batch = _whole(policy, make_batch)
    told = _told(policy, _contract(batch))
    for scale in (0.95, 1.0, 1.05):
        scaled = _with_rewards(batch, scale)
        found = adapt_step(told, parameters, scaled, TARGETED, step=0).parameters
        plain = adapt_step(policy, parameters, scaled, TARGETED, step=0).parameters
        assert all(torch.equal(found[name], plain[name]) for name in parameters)


def test_the_scale_is_one_in_the_range_of_meta_training_exact_far_away_and_continuous() -> None:
    known = RewardDeviation(median=2.0, low=1.6, high=2.6)
    assert [reward_scale(deviation, known) for deviation in (1.6, 1.9, 2.0, 2.6)] == [1.0] * 4
    assert reward_scale(200.0, known) == pytest.approx(100.0)
    assert reward_scale(0.02, known) == pytest.approx(0.01)
    deviations = [math.exp(math.log(0.5) + step * math.log(20.0) / 5000) for step in range(5001)]
    scales = [reward_scale(deviation, known) for deviation in deviations]
    ratios = [after / before for before, after in itertools.pairwise(scales)]
    assert min(ratios) >= 1.0
    assert max(ratios) < 1.002


def _of_moves(policy: Policy, make_batch: MakeBatch) -> TrajectoryBatch:
    """Long episodes whose rewards tell how each step changed the observation, beside what the observation tells."""
    batch = make_batch(policy, policy.init(0), 0, (100,) * 8)
    following = torch.cat([batch.observations[1:], batch.observations[-1:]])
    return dataclasses.replace(batch, rewards=0.5 * (following - batch.observations).sum(1) + batch.observations[:, 0])


def _knowing_moves(batch: TrajectoryBatch) -> RewardContract:
    signal = reward_signal(batch, PLAIN.baseline_ridge)
    known = RewardDeviation(median=signal, low=0.9 * signal, high=1.1 * signal)
    return _contract(batch, (-1000.0, 1000.0)).model_copy(update={"signal": (known,)})


def test_moves_explain_rewards_about_moves_and_no_noise(policy: Policy, make_batch: MakeBatch) -> None:
    batch = _of_moves(policy, make_batch)
    deviation = reward_deviation(batch, PLAIN.baseline_ridge)
    assert reward_signal(batch, PLAIN.baseline_ridge) == pytest.approx(deviation, rel=0.1)
    assert reward_signal(_with_rewards(batch, 1e-30), PLAIN.baseline_ridge) == pytest.approx(1e-30 * deviation, rel=0.1)
    noise = torch.randn(batch.rewards.shape, generator=torch.Generator().manual_seed(0))
    alone = dataclasses.replace(batch, rewards=noise)
    assert reward_deviation(alone, PLAIN.baseline_ridge) == pytest.approx(1.0, rel=0.1)
    assert reward_signal(alone, PLAIN.baseline_ridge) == 0.0
    assert reward_signal(_with_rewards(batch, 0.0), PLAIN.baseline_ridge) == 0.0


def test_a_large_reward_has_a_scale_and_a_noisy_or_late_one_has_none(policy: Policy, make_batch: MakeBatch) -> None:
    """Formerly noise and delay passed for a scale, and the step was too short."""
    batch = _of_moves(policy, make_batch)
    told = _knowing_moves(batch)
    deviation = reward_deviation(batch, PLAIN.baseline_ridge)
    noise = 3.0 * deviation * torch.randn(batch.rewards.shape, generator=torch.Generator().manual_seed(0))
    late = batch.pad(torch.zeros_like(batch.rewards))
    late[:, -1] = batch.returns
    far = TARGETED.model_copy(update={"target_return": 900.0})
    for rewards in (batch.rewards + noise, batch.unpad(late)):
        disguised = dataclasses.replace(batch, rewards=rewards)
        assert reward_deviation(disguised, PLAIN.baseline_ridge) > 1.2 * deviation
        expected = ReturnGap(900.0 - float(disguised.returns.mean()), measured=True)
        assert return_gap(disguised, far, told, 0) == expected
    large = return_gap(_with_rewards(batch, 50.0), far, told, 0)
    assert large.measured
    assert large.gap == pytest.approx(900.0 - float(batch.returns.mean()), rel=0.02)


def test_a_step_multiplies_its_features_once(
    policy: Policy, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Formerly the deviation of the rewards had separate features and products: 1.3 ms of a round."""
    parameters, batch = _whole(policy, make_batch)
    told = _told(policy, _contract(batch))
    made: list[torch.Size] = []

    def of(rows: torch.Tensor, trajectories: int = 0) -> Regressors:
        made.append(rows.shape)
        return Regressors(rows, rows @ rows.T)

    monkeypatch.setattr(Regressors, "of", of)
    adapt_step(told, parameters, batch, TARGETED, step=0)
    assert made == [(2 * 3 + 5, len(batch.rewards))]


def test_features_of_the_baseline_measure_the_same_deviations(policy: Policy, make_batch: MakeBatch) -> None:
    for lengths in ((12, 5, 12, 9), (40, 40)):
        batch = make_batch(policy, policy.init(0), 0, lengths)
        inputs = baseline_inputs(batch, HORIZON, 0.9)
        for measure in (reward_deviation, reward_signal):
            assert measure(batch, 1e-5, inputs) == pytest.approx(measure(batch, 1e-5), rel=1e-9)
        assert reward_deviation(batch, 1e-5) > 0.0


def test_a_batch_of_single_steps_has_no_signal(policy: Policy, make_batch: MakeBatch) -> None:
    batch = make_batch(policy, policy.init(0), 0, (1,) * 8)
    assert reward_signal(batch, PLAIN.baseline_ridge) == 0.0
    assert return_gap(batch, TARGETED, _knowing_moves(_of_moves(policy, make_batch)), 0).gap >= 0.0


def test_a_deviation_that_never_varied_in_meta_training_gives_the_ratio() -> None:
    known = RewardDeviation(median=2.0, low=2.0, high=2.0)
    assert reward_scale(2.0, known) == 1.0
    assert reward_scale(2.2, known) == pytest.approx(1.1)


def test_a_return_above_the_target_says_nothing_about_the_distance(policy: Policy, make_batch: MakeBatch) -> None:
    """Formerly the gap was 0 then, and the session never moved."""
    parameters, batch = _whole(policy, make_batch)
    reward = _contract(batch)
    above = _with_rewards(batch, 1.0, 50.0)
    assert return_gap(above, TARGETED, None, 0) == ReturnGap(0.0, measured=True)
    # The middle of θ's returns in meta-training is −12.5.
    assert return_gap(above, TARGETED, reward, 0).gap == pytest.approx(32.5)
    assert not return_gap(above, TARGETED, reward, 0).measured
    adapted = adapt_step(_told(policy, reward), parameters, above, TARGETED, step=0).parameters
    assert not all(torch.equal(adapted[name], value) for name, value in parameters.items())


def test_a_return_below_all_of_meta_training_gives_the_longest_step_of_meta_training(
    policy: Policy, make_batch: MakeBatch
) -> None:
    _, batch = _whole(policy, make_batch)
    below = _with_rewards(batch, 1.0, -1000.0)
    assert return_gap(below, TARGETED, _contract(batch), 0).gap == pytest.approx(60.0 + 0.2 * 55.0)
    assert not return_gap(below, TARGETED, _contract(batch), 0).measured


def test_steps_without_a_measured_distance_bisect(policy: Policy, make_batch: MakeBatch) -> None:
    parameters, batch = _whole(policy, make_batch)
    told = _told(policy, _contract(batch))
    above = _with_rewards(batch, 1.0, 50.0)
    lengths = []
    for step in range(4):
        adapted = adapt_step(told, parameters, above, TARGETED, step=step).parameters
        lengths.append(math.sqrt(sum(float((adapted[name] - parameters[name]).square().sum()) for name in parameters)))
    assert lengths == pytest.approx([0.3 * 3.25 * 0.5**step for step in range(4)], rel=1e-4)


def test_later_rounds_compare_with_the_deviation_of_adapted_policies(policy: Policy, make_batch: MakeBatch) -> None:
    _, batch = _whole(policy, make_batch)
    first = _contract(batch).deviation[0]
    adapted = RewardDeviation(median=first.median / 10, low=first.low / 10, high=first.high / 10)
    reward = _contract(batch).model_copy(update={"deviation": (first, adapted)})
    mean_return = float(batch.returns.mean())
    assert return_gap(batch, TARGETED, reward, 0).gap == pytest.approx(20.0 - mean_return)
    assert return_gap(batch, TARGETED, reward, 0).measured
    for step in (1, 5):
        assert return_gap(batch, TARGETED, reward, step).gap == pytest.approx(20.0 - mean_return / 10)
        assert return_gap(batch, TARGETED, reward, step).measured


def test_a_contract_without_measurements_takes_the_rewards_as_they_are(policy: Policy, make_batch: MakeBatch) -> None:
    _, batch = _whole(policy, make_batch)
    scaled = _with_rewards(batch, 0.1)
    expected = 20.0 - float(scaled.returns.mean())
    for reward in (None, RewardContract(formula="test")):
        assert return_gap(scaled, TARGETED, reward, 0) == ReturnGap(expected, measured=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step_range": (1.0, 0.0)}, "reward.step_range"),
        ({"return_range": (2.0, -2.0)}, "reward.return_range"),
        ({"deviation": [{"median": 1.0, "low": 2.0, "high": 3.0}]}, "expected this order"),
        ({"deviation": [{"median": 0.0, "low": 0.0, "high": 0.0}]}, "greater than 0"),
    ],
)
def test_an_inconsistent_contract_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardContract.model_validate({"formula": "test", **change})
