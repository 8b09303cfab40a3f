"""The next context from slopes, on returns whose best context is known."""

import math

import numpy as np
import pytest

from thetaprime.models.verdict import Round, RoundsSpec, review
from thetaprime.models.verdict.line_search import along, between, next_context, retreat
from thetaprime.models.verdict.rounds import slope_left

SPEC = RoundsSpec()
SLOPE = 100.0


def _cone(policy: int, at: float, goal: float, *, upper: float | None = None, steepness: float = 1.0) -> Round:
    """A round on a line toward the goal, at which the return has a kink."""
    side = math.copysign(1.0, goal - at)
    mean = -SLOPE * abs(goal - at)
    return Round(policy, mean, 4.0, 16, (at, 0.0), (side, 0.0), steepness, mean if upper is None else upper)


@pytest.mark.parametrize("goal", [0.2, 0.45, 0.9])
def test_two_ascents_meet_at_the_goal_between_them(goal: float) -> None:
    rounds = [_cone(0, 0.0, goal), _cone(1, 1.0, goal)]
    best = int(rounds[1].mean_return > rounds[0].mean_return)
    met = between(rounds, best, 1.0, SLOPE, SPEC)
    assert met == pytest.approx((goal, 0.0))
    assert next_context(rounds, best, 0.3, 1.0, SLOPE, SPEC) == met
    # A place that was measured is not proposed again.
    assert between([*rounds, _cone(2, goal, goal + 0.01)], best, 1.0, SLOPE, SPEC) is None


@pytest.mark.parametrize(
    "rounds",
    [
        # Both rise in one direction.
        [_cone(0, 0.0, 2.0), _cone(1, 1.0, 2.0)],
        # The second gradient is nearly 0: the top is there, and not between.
        [_cone(0, 0.0, 0.9), _cone(1, 1.0, 0.9, steepness=0.1)],
        # No gradient was measured, as in sessions of an earlier version.
        [_cone(0, 0.0, 0.5), Round(1, -50.0, 4.0, 16, (1.0, 0.0), (-1.0, 0.0))],
    ],
)
def test_ascents_that_do_not_meet_leave_the_proposal_to_the_model(rounds: list[Round]) -> None:
    assert between(rounds, 1, 1.0, SLOPE, SPEC) is None
    context = next_context(rounds, 1, 0.3, 1.0, SLOPE, SPEC)
    assert math.dist(context, rounds[1].context) <= 1.0


def test_a_policy_that_fails_at_times_is_taken_back_a_part_of_the_way() -> None:
    start = _cone(0, 0.0, 5.0)
    often = Round(1, -200.0, 120.0, 20, (2.0, 1.0), (1.0, 0.0), 0.1, upper=-75.0)
    assert retreat([start, often], 1, SPEC) == pytest.approx((1.7, 0.85))
    # The failures cost less than the way back.
    seldom = Round(1, -100.0, 60.0, 20, (2.0, 1.0), (1.0, 0.0), 0.1, upper=-75.0)
    assert retreat([start, seldom], 1, SPEC) is None
    after = Round(2, -210.0, 120.0, 20, (1.7, 0.85), (1.0, 0.0), 0.1, upper=-90.0)
    assert retreat([start, often, after], 1, SPEC) is None
    assert retreat([start], 0, SPEC) is None


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_proposals_depend_neither_on_the_unit_nor_on_the_offset(scale: float) -> None:
    def changed(each: Round) -> Round:
        upper = None if each.upper is None else scale * (each.upper + 30.0)
        return Round(
            each.policy,
            scale * (each.mean_return + 30.0),
            scale * 4.0,
            16,
            each.context,
            each.ascent,
            scale * (each.steepness or 0.0),
            upper,
        )

    for rounds in (
        [_cone(0, 0.0, 0.6), _cone(1, 1.0, 0.6)],
        [_cone(0, 0.0, 3.0), Round(1, -200.0, 4.0, 16, (1.0, 0.0), (0.0, 1.0), 0.2, upper=-90.0)],
        [_cone(0, 0.0, 1.1), _cone(1, 1.0, 1.1, steepness=0.2)],
    ):
        expected = next_context(rounds, 1, 0.3, 1.0, SLOPE, SPEC)
        found = next_context([changed(each) for each in rounds], 1, 0.3, 1.0, scale * SLOPE, SPEC)
        assert found == pytest.approx(expected, abs=1e-6)


def test_the_slope_that_is_left_tells_the_radius() -> None:
    level, steep, over = (
        [_cone(0, 0.0, 3.0), _cone(1, 1.0, 3.0, steepness=0.25)],
        [_cone(0, 0.0, 3.0), _cone(1, 1.0, 3.0, steepness=0.9)],
        [_cone(0, 0.0, 0.8), _cone(1, 1.0, 0.8)],
    )
    assert [slope_left(*each) for each in (level, steep, over)] == pytest.approx([0.25, 0.9, -1.0])
    found = [review(each, SPEC) for each in (level, steep, over)]
    assert [each.radius for each in found] == pytest.approx([1.0 / 3.0, 1.0, 0.5])
    assert [each.steep for each in found] == [False, True, False]
    # No farther than it has come: a goal ahead is not passed by more than was gained.
    assert along(steep[1], found[1].radius) == (2.0, 0.0)
    # No longer than the step before by much, and never shorter than `nearest`.
    short = [*level, _cone(2, 1.1, 3.0, steepness=0.24)]
    assert review(short, SPEC).radius == pytest.approx(SPEC.nearest)


def test_a_slope_needs_two_gradients_and_a_step_upward() -> None:
    start, end = _cone(0, 0.0, 3.0), _cone(1, 1.0, 3.0)
    without = Round(1, -200.0, 4.0, 16, (1.0, 0.0), (1.0, 0.0))
    assert slope_left(start, without) is None
    assert slope_left(without, end) is None
    assert slope_left(start, start) is None
    # From a goal, no step leads upward.
    assert slope_left(_cone(0, 0.0, -1.0), end) is None


def test_a_session_on_a_cone_is_at_its_goal_by_the_fourth_round() -> None:
    rng = np.random.default_rng(0)
    for goal in (0.15, 0.6, 1.4, 2.7):
        rounds: list[Round] = [_cone(0, 0.0, goal)]
        at = 1.0
        for policy in range(1, 5):
            rounds.append(_cone(policy, at, goal + 0.02 * float(rng.standard_normal())))
            seen = review(rounds, SPEC)
            best = next(index for index, each in enumerate(rounds) if each.policy == seen.best)
            context = (
                along(rounds[best], seen.radius)
                if seen.steep
                else next_context(rounds, best, seen.radius, 1.0, SLOPE, SPEC)
            )
            at = context[0]
        assert max(each.mean_return for each in rounds) > -5.0 - 0.05 * SLOPE * goal
