"""The returns that are usual after adaptation, and when a session may trust them."""

import dataclasses
import math

import pytest

from thetaprime.models import load_meta_policy, zoo_directory
from thetaprime.models.verdict import Round
from thetaprime.models.verdict.usual_returns import UsualReturns

USUAL = UsualReturns(low=-34.0, middle=-20.0, high=-7.0, target=0.0)


def _round(policy: int, mean_return: float, steepness: float = 1.0) -> Round:
    return Round(policy, mean_return, 4.0, 20, (float(policy), 0.0), (1.0, 0.0), steepness)


def test_they_are_those_of_the_artifact_in_the_unit_of_the_rewards() -> None:
    meta_policy = load_meta_policy(zoo_directory() / "half-cheetah-velocity" / "1")
    found, scaled = (UsualReturns.of(meta_policy, scale) for scale in (1.0, 10.0))
    assert found is not None
    assert scaled is not None
    assert found.low < found.middle < found.high < found.target == 0.0
    assert dataclasses.astuple(scaled) == pytest.approx([10.0 * each for each in dataclasses.astuple(found)])
    assert UsualReturns.of(dataclasses.replace(meta_policy, reference={}), 1.0) is None


def test_a_small_remainder_of_a_large_gain_is_enough_where_the_level_is_known() -> None:
    rounds = [_round(0, -380.0), _round(1, -49.0, 0.1)]
    assert USUAL.enough(rounds, level_known=True, p_value=0.5) == pytest.approx(-20.0 - 33.1)
    assert USUAL.enough(rounds, level_known=False, p_value=0.5) == pytest.approx(-34.0 - 0.05 * 27.0)
    # An unfamiliar task may reach more.
    assert USUAL.enough(rounds, level_known=True, p_value=0.04) == pytest.approx(-34.0 - 0.05 * 27.0)
    # After a small gain, the quantile counts.
    assert USUAL.enough([_round(0, -60.0), _round(1, -30.0)], level_known=True, p_value=0.5) == pytest.approx(-35.35)


def test_a_return_above_the_best_of_meta_training_tells_nothing() -> None:
    rounds = [_round(0, -112.0), _round(1, 3.0)]
    assert USUAL.enough(rounds, level_known=True, p_value=0.5) is None


@pytest.mark.parametrize(
    ("steepness", "p_value", "trusted"),
    [(0.9, 0.02, False), (0.55, 0.08, False), (0.2, 0.02, True), (0.9, 0.4, True), (0.9, None, True)],
)
def test_a_usual_return_of_a_doubtful_task_is_not_trusted_where_the_slope_goes_on(
    steepness: float, p_value: float | None, *, trusted: bool
) -> None:
    rounds = [_round(0, -112.0), _round(1, -8.0, steepness)]
    assert (USUAL.enough(rounds, level_known=True, p_value=p_value) is not None) == trusted
    # Without a target return, the first step does not depend on the level.
    free = dataclasses.replace(USUAL, target=-math.inf)
    assert free.enough(rounds, level_known=True, p_value=p_value) is not None


def test_the_distance_left_is_that_to_the_median() -> None:
    assert USUAL.distance_left(_round(1, -120.0), 200.0) == pytest.approx(0.5)
    assert USUAL.distance_left(_round(1, -10.0), 200.0) == math.inf
