import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from thetaprime.models import TrajectoryBatch, estimate_advantages
from thetaprime.models.baseline import Regressors, features
from thetaprime.models.trajectories import discounted_sums

HORIZON = 9


def _batch(lengths: list[int], terminated: list[bool], seed: int) -> TrajectoryBatch:
    rng = np.random.default_rng(seed)
    return TrajectoryBatch.concatenate(
        [rng.normal(size=(n, 2)) for n in lengths],
        [rng.normal(size=(n, 1)) for n in lengths],
        [rng.normal(size=n) for n in lengths],
        terminated,
        [rng.normal(size=2) for _ in lengths],
    )


def _slow_advantages(batch: TrajectoryBatch, discount: float, gae_lambda: float) -> torch.Tensor:
    """By the definitions, one step at a time, for trajectories after which nothing follows."""
    rewards = batch.rewards.double().split(batch.lengths)
    returns = []
    for reward in rewards:
        total = [sum(discount ** (s - t) * reward[s] for s in range(t, len(reward))) for t in range(len(reward))]
        returns.append(torch.stack([torch.as_tensor(each) for each in total]))
    counts = [sum(discount**s for s in range(HORIZON - int(t))) for t in batch.time]
    constant = torch.tensor(counts, dtype=torch.float64) / sum(discount**s for s in range(HORIZON))
    inputs = Regressors.of(torch.cat([features(batch.observations, batch.time).rows, constant[None]]))
    level = batch.rewards.double().mean() * sum(discount**s for s in range(HORIZON))
    weights = inputs.fit(torch.cat(returns) - level * constant, 1e-5)
    weights[-1] += level
    values = weights @ inputs.rows
    values = values.split(batch.lengths)
    found = []
    for reward, value in zip(rewards, values, strict=True):
        follow = torch.cat([value[1:], torch.zeros(1, dtype=torch.float64)])
        residual = reward + discount * follow - value
        advantage = torch.zeros_like(residual)
        running = torch.zeros((), dtype=torch.float64)
        for t in reversed(range(len(reward))):
            running = residual[t] + discount * gae_lambda * running
            advantage[t] = running
        found.append(advantage)
    flat = torch.cat(found)
    return ((flat - flat.mean()) / flat.std(correction=0)).float()


@settings(max_examples=30, deadline=None)
@given(
    ends=st.lists(st.integers(1, HORIZON), min_size=2, max_size=6),
    discount=st.sampled_from([0.5, 0.99, 1.0]),
    gae_lambda=st.sampled_from([0.0, 0.7, 1.0]),
    seed=st.integers(0, 1000),
)
def test_advantages_agree_with_their_definition(ends: list[int], discount: float, gae_lambda: float, seed: int) -> None:
    batch = _batch(ends, [n < HORIZON for n in ends], seed)
    # With fewer steps than features the baseline knows all returns, and advantages are its rounding.
    assume(sum(ends) > 10)
    found = estimate_advantages(batch, horizon=HORIZON, discount=discount, gae_lambda=gae_lambda, ridge=1e-5)
    torch.testing.assert_close(found, _slow_advantages(batch, discount, gae_lambda), atol=1e-4, rtol=1e-4)


def test_truncation_before_the_horizon_is_bootstrapped_and_termination_is_not() -> None:
    """Rewards of about 1: a return is the number of steps to go, which the baseline knows from complete episodes."""
    lengths = [HORIZON] * 6 + [4]
    rng = np.random.default_rng(0)
    rewards = [1 + 0.3 * rng.normal(size=n) for n in lengths]

    def make(*, terminated: bool) -> torch.Tensor:
        batch = TrajectoryBatch.concatenate(
            [np.zeros((n, 2)) for n in lengths],
            [np.zeros((n, 1)) for n in lengths],
            rewards,
            [False] * 6 + [terminated],
            [np.zeros(2) for _ in lengths],
        )
        return estimate_advantages(batch, horizon=HORIZON, discount=1.0, gae_lambda=1.0, ridge=1e-9)

    cut, ended = make(terminated=False)[-4:], make(terminated=True)[-4:]
    # Cut short, the episode would have gone on as the others did: nothing sets it apart.
    assert abs(cut.mean()) < 0.8
    # Ended for good, it has lost the steps that the others still had.
    assert ended.mean() < -1.5


def test_advantages_are_normalized_and_constant_rewards_give_zero() -> None:
    batch = _batch([9, 9, 9], [False] * 3, 0)
    found = estimate_advantages(batch, horizon=9, discount=0.9, gae_lambda=1.0, ridge=1e-5)
    assert found.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert found.std(correction=0).item() == pytest.approx(1.0, abs=1e-5)


def test_baseline_uses_more_ridge_where_the_features_are_degenerate() -> None:
    inputs = Regressors.of(torch.ones(6, 4, dtype=torch.float64) * 1e200)  # the Gram matrix overflows
    assert torch.equal(inputs.fit(torch.ones(4, dtype=torch.float64), 1e-5), torch.zeros(6).double())
    singular = Regressors.of(torch.zeros(6, 4, dtype=torch.float64))
    assert torch.isfinite(singular.fit(torch.ones(4, dtype=torch.float64), 1e-300)).all()


def test_discounted_sums() -> None:
    padded = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    torch.testing.assert_close(discounted_sums(padded, 0.5), torch.tensor([[3.0, 4.0, 4.0]], dtype=torch.float64))
