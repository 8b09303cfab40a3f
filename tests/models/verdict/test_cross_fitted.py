"""The gain of a short step, judged by episodes that did not propose it."""

import dataclasses
import math
from typing import Final

import numpy as np
import pytest
import torch

from thetaprime.models import (
    AdaptationSpec,
    Parameters,
    Policy,
    TrajectoryBatch,
    adapt_step,
    load_meta_policy,
    zoo_directory,
)
from thetaprime.models.spec import BoxAction, EnvironmentContract, PolicySpec
from thetaprime.models.verdict import StepOptions, Verdict, next_step
from thetaprime.models.verdict.cross_fitted import MOST_KL, CrossFittedGain, cross_fitted_gain
from thetaprime.training.sampling.sampler import collect
from thetaprime.training.tasks.distributions import resolve_tasks

_TARGET: Final = 1.0
_STEP: Final = AdaptationSpec(inner_lr=0.1, normalize_gradient=True, baseline_ridge=1e-5)


class Bandit:
    """Episodes of one step: the reward −(a − 1)² has a mean in closed form, so the truth is exact."""

    def __init__(self, noise: float = 0.0) -> None:
        action = BoxAction(low=(-math.inf,), high=(math.inf,))
        contract = EnvironmentContract(environment_id="Bandit", observation_shape=(1,), action=action, horizon=1)
        self.policy = Policy(contract, PolicySpec(hidden_sizes=(4,), activation="tanh"))
        self.parameters = self.policy.init(3)
        self._noise = noise

    def batch(self, rng: np.random.Generator, episodes: int = 20, slope: float = 1.0) -> TrajectoryBatch:
        mean, log_std = self.policy.outputs(self.parameters, torch.ones(1, 1))
        actions = float(mean) + float(log_std.exp()) * rng.standard_normal((episodes, 1, 1))
        rewards = -slope * (actions[:, 0] - _TARGET) ** 2 + self._noise * rng.standard_normal((episodes, 1))
        ones = [np.ones((1, 1), np.float32)] * episodes
        return TrajectoryBatch.concatenate(ones, list(actions), list(rewards), [True] * episodes, ones)

    def gain(self, batch: TrajectoryBatch) -> tuple[Parameters, CrossFittedGain | None]:
        """A step, and its predicted gain."""
        step = adapt_step(self.policy, self.parameters, batch, _STEP, step=0)
        gain = cross_fitted_gain(self.policy, self.parameters, step.parameters, batch, step, _STEP, None)
        return step.parameters, gain

    def expected(self, parameters: Parameters) -> float:
        """The mean reward of a policy."""
        mean, log_std = self.policy.outputs(parameters, torch.ones(1, 1))
        return -((float(mean) - _TARGET) ** 2) - float(log_std.exp()) ** 2


def test_nine_intervals_of_ten_cover_the_gain_of_a_short_step() -> None:
    bandit, rng = Bandit(noise=1.0), np.random.default_rng(0)
    covered, errors = [], []
    for _ in range(120):
        batch = bandit.batch(rng)
        after, found = bandit.gain(batch)
        assert found is not None
        truth = bandit.expected(after) - bandit.expected(bandit.parameters)
        covered.append(found.gain.low <= truth <= found.gain.high)
        errors.append(found.gain.value - truth)
        assert 5.0 < found.effective_sample_size <= 20.0
    assert 0.83 <= np.mean(covered) <= 0.97


def test_a_step_along_noise_promises_nothing() -> None:
    bandit, rng = Bandit(noise=1.0), np.random.default_rng(1)
    gains, fitted = [], []
    for _ in range(120):
        batch = bandit.batch(rng, slope=0.0)
        after, found = bandit.gain(batch)
        assert found is not None
        gains.append(found.gain.value)
        # The same judge on the episodes that proposed the step.
        old, new = (
            bandit.policy.log_prob(bandit.policy.outputs(each, batch.observations), batch.actions)
            for each in (bandit.parameters, after)
        )
        centered = batch.rewards - batch.rewards.mean()
        fitted.append(float((((new - old).exp() - 1.0) * centered).mean()))
    error = np.std(gains) / math.sqrt(len(gains))
    assert abs(np.mean(gains)) < 3.0 * error
    assert np.mean(fitted) > 6.0 * np.std(fitted) / math.sqrt(len(fitted))


def test_the_gain_has_the_units_of_the_rewards() -> None:
    bandit = Bandit()
    batch = bandit.batch(np.random.default_rng(2))
    (_, one), (_, ten) = (
        bandit.gain(dataclasses.replace(batch, rewards=batch.rewards * factor)) for factor in (1.0, 10.0)
    )
    assert one is not None
    assert ten is not None
    assert ten.gain.value == pytest.approx(10.0 * one.gain.value, rel=1e-4)
    assert ten.effective_sample_size == pytest.approx(one.effective_sample_size)


@pytest.mark.parametrize("episodes", [1, 2, 7])
def test_too_few_episodes_give_no_number(episodes: int) -> None:
    bandit = Bandit()
    assert bandit.gain(bandit.batch(np.random.default_rng(3), episodes))[1] is None


def test_constant_rewards_give_no_number() -> None:
    bandit = Bandit()
    assert bandit.gain(bandit.batch(np.random.default_rng(3), slope=0.0))[1] is None


def _first_verdict(name: str, options: StepOptions) -> Verdict:
    meta_policy = load_meta_policy(zoo_directory() / name / "1")
    theta = meta_policy.parameters
    (batch,) = collect(
        resolve_tasks("point-navigation"),
        [{"goal": [0.35, -0.2]}],
        meta_policy.policy,
        [theta],
        20,
        rng=np.random.default_rng(5),
    )
    return next_step(meta_policy, [], batch, theta, lambda number: theta, options).verdict


@pytest.mark.parametrize("name", ["point-navigation", "point-navigation-maml"])
def test_a_session_judges_its_short_step_by_the_rounds_episodes(name: str) -> None:
    """A limit makes the step short; without one, the meta-policy's whole step has a calibrated number."""
    short = _first_verdict(name, StepOptions(max_kl=0.02))
    assert short.predicted_gain is not None
    assert 12.0 < short.effective_sample_size <= 20.0
    # A step of .02 nats gains a few units; the whole one about 30.
    assert 0.0 < short.predicted_gain.value < 20.0
    assert short.predicted_gain.low < short.predicted_gain.value < short.predicted_gain.high
    middling = _first_verdict(name, StepOptions(max_kl=10.0 * MOST_KL))
    assert middling.effective_sample_size == 0.0
