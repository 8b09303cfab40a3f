"""The realized gain: Welch's interval of a difference of mean returns."""

import math

import numpy as np
import pytest

from thetaprime.models.verdict import Estimate
from thetaprime.models.verdict.gain import realized_gain, student_quantile


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    # Tables of Student's t at .95 (one-sided).
    [(1, 6.3138), (2, 2.9200), (3, 2.3534), (10, 1.8125), (19, 1.7291), (38, 1.6860), (120, 1.6577), (1e9, 1.6449)],
)
def test_the_quantiles_are_those_of_the_tables(freedom: float, quantile: float) -> None:
    assert student_quantile(freedom, 0.9) == pytest.approx(quantile, abs=6e-5)


def test_the_quantile_is_continuous_where_the_expansion_takes_over() -> None:
    assert student_quantile(1000.0, 0.9) == pytest.approx(student_quantile(1000.1, 0.9), abs=1e-5)


def test_welchs_interval_by_hand() -> None:
    # Means 2 and 11, variances 1 and 4, three and five trajectories; the side of three has the smaller spread of a few.
    gain = realized_gain(np.array([1.0, 1.0, 3.0, 3.0]), np.array([9.0, 10.0, 11.0, 12.0, 13.0]))
    error = math.sqrt((4 / 3) / 4 + 2.5 / 5)
    freedom = error**4 / (((4 / 3) / 4) ** 2 / 3 + (2.5 / 5) ** 2 / 4)
    half = student_quantile(freedom, 0.9) * error
    assert gain is not None
    assert (gain.value, gain.low, gain.high) == pytest.approx((9.0, 9.0 - half, 9.0 + half))


@pytest.mark.parametrize(("before", "after", "spread"), [(20, 20, 0.25), (20, 5, 1.0), (20, 2, 1.0), (20, 1, 1.0)])
def test_nine_intervals_of_ten_cover_the_truth(before: int, after: int, spread: float) -> None:
    rng = np.random.default_rng(0)
    trials = [realized_gain(rng.normal(size=before), 3.0 + spread * rng.normal(size=after)) for _ in range(600)]
    covered = np.mean([each is not None and each.low <= 3.0 <= each.high for each in trials])
    assert 0.87 <= covered <= 0.96


def test_two_returns_that_happen_to_be_equal_tell_no_spread_of_their_own() -> None:
    before = np.array([0.0, 2.0, 4.0, 6.0])
    pair = realized_gain(before, np.array([2.0, 2.0]))
    single = realized_gain(before, np.array([2.0]))
    assert pair is not None and single is not None
    assert single.low < pair.low < -1.0 < 0.0 < pair.high < single.high


def test_returns_without_spread_give_the_difference_itself() -> None:
    assert realized_gain(np.full(20, 3.0), np.full(5, 4.0)) == Estimate(1.0, 1.0, 1.0)


@pytest.mark.parametrize("sizes", [(0, 20), (20, 0), (1, 1), (0, 0)])
def test_nothing_is_said_where_nothing_tells_the_spread(sizes: tuple[int, int]) -> None:
    assert realized_gain(np.arange(sizes[0]), np.arange(sizes[1])) is None


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e3, 1e36, 1e200])
def test_the_interval_scales_with_the_reward(scale: float) -> None:
    rng = np.random.default_rng(1)
    before, after = rng.normal(size=20), rng.normal(size=10) + 1.0
    plain, scaled = realized_gain(before, after), realized_gain(before * scale, after * scale)
    assert plain is not None and scaled is not None
    assert (scaled.value, scaled.low, scaled.high) == pytest.approx(
        (plain.value * scale, plain.low * scale, plain.high * scale), rel=1e-9
    )
