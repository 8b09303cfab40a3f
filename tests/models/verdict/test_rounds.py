"""The guard of the rounds, and the model of the return, on returns whose best context is known."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from thetaprime.models.verdict import Move, Review, Round, RoundsSpec, propose_context, review

SPEC = RoundsSpec()
Surface = Callable[[np.ndarray], float]


def _measured(policy: int, mean_return: float, deviation: float | None = 4.0, trajectories: int = 16) -> Round:
    """A round of the policy with its number as its context."""
    return Round(policy, mean_return, deviation, trajectories, (float(policy), 0.0), (1.0, 0.0))


def _cone(goal: tuple[float, ...], scale: float = 100.0) -> Surface:
    return lambda context: -scale * float(np.linalg.norm(context - np.asarray(goal)))


def _session(surface: Surface, size: int, rounds: int, *, noise: float = 1.0, seed: int = 0) -> list[Round]:
    """A session whose directions are off by 30 degrees on average, and whose first step leads one unit."""
    rng = np.random.default_rng(seed)
    history: list[Round] = []
    context = (0.0,) * size
    for number in range(rounds):
        at = np.array(context)
        ahead = np.array([surface(at + 1e-4 * axis) - surface(at) for axis in np.eye(size)])
        direction = ahead / np.linalg.norm(ahead) + 0.4 * rng.standard_normal(size)
        direction /= np.linalg.norm(direction)
        known = next((each.policy for each in history if each.context == context), number)
        measured = surface(at) + noise * float(rng.standard_normal())
        history.append(Round(known, measured, noise * 4.0, 16, context, tuple(direction.tolist())))
        seen = review(history, SPEC)
        context = tuple((at + direction).tolist()) if seen.is_first else _next(history, seen)
    return history


def _next(history: list[Round], seen: Review) -> tuple[float, ...]:
    index = next(i for i, each in enumerate(history) if each.policy == seen.best)
    if seen.held:
        return history[index].context
    return propose_context(history, index, seen.radius, 1.0, 100.0, SPEC)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_a_session_reaches_a_goal_beyond_its_first_step_and_stays_there(size: int, seed: int) -> None:
    history = _session(_cone((2.0, 1.0, 0.0, 0.5)[:size]), size, 16, seed=seed)
    best = max(each.mean_return for each in history)
    assert best > 0.4 * history[0].mean_return
    # From the tenth round on, the best policy is handed out, and measured again.
    assert all(each.mean_return > best - 5.0 for each in history[11:])


@pytest.mark.parametrize("seed", range(3))
def test_a_session_that_can_gain_nothing_goes_back_to_its_first_policy(seed: int) -> None:
    history = _session(_cone((0.0, 0.0)), 2, 12, seed=seed)
    seen = review(history, SPEC)
    assert (seen.held, seen.best, history[-1].context) == (True, 0, (0.0, 0.0))


def test_a_loss_shrinks_the_region_and_starts_again_from_the_best() -> None:
    seen = review([_measured(0, -50.0), _measured(1, -80.0)], SPEC)
    assert (seen.move, seen.best, seen.losses) == (Move.BACK, 0, 1)
    assert seen.radius == pytest.approx(SPEC.first_radius * 0.6)
    assert seen.realized is not None
    assert seen.realized.value == -30.0
    assert seen.realized.high == pytest.approx(-30.0 + 1.7531 * math.sqrt(2.0), abs=1e-3)


def test_a_gain_moves_the_region_and_widens_it_and_a_doubtful_one_does_not() -> None:
    seen = review([_measured(0, -90.0), _measured(1, -20.0)], SPEC)
    assert (seen.move, seen.best) == (Move.FORWARD, 1)
    assert seen.radius == pytest.approx(SPEC.first_radius * 1.5)
    # One standard error, 1, of each mean.
    doubtful = review([_measured(0, -90.0), _measured(1, -88.2)], SPEC)
    assert (doubtful.move, doubtful.best) == (Move.SHORTER, 1)
    assert doubtful.radius == pytest.approx(SPEC.first_radius)
    nothing = review([_measured(0, -90.0), _measured(1, -89.5)], SPEC)
    assert (nothing.move, nothing.best) == (Move.SHORTER, 0)
    assert nothing.radius == pytest.approx(SPEC.first_radius * 0.6)


def test_a_policy_that_is_measured_again_pools_its_episodes() -> None:
    rounds = [_measured(0, -90.0), _measured(1, -80.0), _measured(1, -84.0, trajectories=48)]
    found = review(rounds, SPEC).policies[1]
    assert (found.mean, found.trajectories) == (-83.0, 64)
    assert found.error == pytest.approx(4.0 / math.sqrt(64))


def test_a_lucky_policy_loses_its_place_when_it_is_measured_again() -> None:
    rounds = [_measured(0, -90.0), _measured(1, -79.0), _measured(2, -77.0), _measured(2, -82.0, trajectories=64)]
    assert review(rounds[:3], SPEC).best == 2
    assert review(rounds, SPEC).best == 1


def test_a_task_that_changes_starts_the_session_again() -> None:
    rounds = [_measured(0, -200.0), _measured(1, -20.0), _measured(1, -21.0), _measured(1, -150.0)]
    assert review(rounds[:3], SPEC).contradicted is None
    seen = review(rounds, SPEC)
    assert seen.contradicted is not None
    assert seen.contradicted.value == pytest.approx(-129.5)
    again = review([*rounds, _measured(0, -60.0)], SPEC)
    assert (again.epoch, again.is_first, again.best) == (4, True, 0)
    assert again.policies[0].mean == -60.0


def test_a_change_for_the_better_that_no_noise_explains_starts_the_session_again_too() -> None:
    # As where the sign of the reward changes: the policy that was near the goal returns little, before and after.
    rounds = [_measured(0, -200.0), _measured(1, -4.0), _measured(1, 6.0)]
    seen = review(rounds, SPEC)
    assert seen.contradicted is not None
    assert (seen.contradicted.value, seen.restart) == (10.0, True)
    again = review([*rounds, _measured(0, 200.0)], SPEC)
    assert (again.epoch, again.best, again.policies[0].mean) == (3, 0, 200.0)
    # Four standard errors are rare, and a change that is small beside the session's is none.
    assert review([*rounds[:2], _measured(1, 2.0)], SPEC).contradicted is None
    wide = [_measured(0, -2000.0), *rounds[1:]]
    assert review(wide, SPEC).contradicted is None
    # A few episodes do not tell their own deviation.
    few = [_measured(0, -200.0), _measured(1, -4.0), _measured(1, 16.0, trajectories=9)]
    assert review(few, SPEC).contradicted is None


def test_a_small_deviation_of_one_round_shows_no_change() -> None:
    # A half-cheetah with masses x 0.6: eight rounds of one policy, whose episodes vary more than those of the last.
    means = (-36.3, -36.4, -40.4, -37.7, -38.5, -39.4, -37.1)
    rounds = [_measured(0, -244.7, 1.8, 20), *(_measured(1, each, 4.7, 20) for each in means)]
    assert review([*rounds, _measured(1, -42.7, 2.0, 20)], SPEC).contradicted is None
    assert review([*rounds, _measured(1, -46.0, 2.0, 20)], SPEC).contradicted is not None
    # Near the goal of a point, the sign of the reward changes: of equally many episodes, both deviations count.
    flipped = [_measured(0, -12.2, 0.15, 20), _measured(1, -0.275, 0.201, 20), _measured(1, 0.264, 0.366, 20)]
    assert review(flipped, SPEC).contradicted is not None


def test_a_task_that_changes_before_the_first_step_starts_with_the_round_that_shows_it() -> None:
    seen = review([_measured(0, -20.0), _measured(0, -20.0), _measured(0, -90.0)], SPEC)
    assert seen.contradicted is not None
    assert (seen.epoch, seen.restart, seen.is_first, seen.policies[0].mean) == (2, False, True, -90.0)


def test_a_session_holds_where_its_best_return_is_usual_after_adaptation() -> None:
    rounds = [_measured(0, -200.0), _measured(1, -20.0)]
    assert not review(rounds, SPEC, floor=-18.0).held
    # Within the error of the mean, it is not certain.
    assert not review(rounds, SPEC, floor=-20.5).held
    assert review(rounds, SPEC, floor=-25.0).held
    # Unless the floor has that error, too: it was taken from means of as many trajectories.
    assert review(rounds, SPEC, floor=-20.5, floor_trajectories=16).held
    assert not review(rounds, SPEC, floor=-20.5, floor_trajectories=64).held
    assert not review(rounds, SPEC, floor=-19.9, floor_trajectories=16).held
    # What was enough once stays enough.
    assert review([*rounds, _measured(1, -32.0)], SPEC, floor=-25.0).held
    # The first step is taken in any case.
    assert not review(rounds[:1], SPEC, floor=-300.0).held


def test_rounds_without_gains_end() -> None:
    rounds = [_measured(0, -50.0), *(_measured(number, -50.0) for number in range(1, 12))]
    held = [review(rounds[: number + 1], SPEC).held for number in range(len(rounds))]
    assert held.index(True) == 5
    assert all(held[5:])


def test_single_episodes_have_the_spread_of_the_others() -> None:
    single = [_measured(0, -50.0, None, 1), _measured(1, -40.0, None, 1)]
    assert review(single, SPEC).best == 0
    known = [*single, _measured(2, -60.0, 1.0, 16)]
    assert review(known, SPEC).policies[0].error == 1.0


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e6, 1e30])
def test_neither_the_unit_nor_the_offset_matters(scale: float) -> None:
    history = _session(_cone((1.5, 0.5)), 2, 6)
    offset = 7.0 if 1e-6 < scale < 1e6 else 0.0
    changed = [
        dataclasses.replace(each, mean_return=scale * (each.mean_return + offset), deviation=scale * 4.0)
        for each in history
    ]
    expected, found = review(history, SPEC), review(changed, SPEC)
    assert dataclasses.replace(found, policies={}, realized=None) == dataclasses.replace(
        expected, policies={}, realized=None
    )
    index = next(i for i, each in enumerate(history) if each.policy == expected.best)
    assert propose_context(changed, index, 0.5, 1.0, 100.0 * scale, SPEC) == pytest.approx(
        propose_context(history, index, 0.5, 1.0, 100.0, SPEC)
    )


def test_a_proposal_stays_within_its_region_or_between_measured_contexts() -> None:
    history = _session(_cone((1.5, 0.5)), 2, 6)
    best = history[2].context
    for radius in (0.01, 0.3, 2.0):
        context = propose_context(history, 2, radius, 1.0, 100.0, SPEC)
        detours = (
            math.dist(best, context) + math.dist(context, each.context) - math.dist(best, each.context)
            for each in history
            if each.context != best
        )
        assert math.dist(context, best) <= radius + 1e-9 or min(detours) < 1e-6


@pytest.mark.parametrize(
    ("rounds", "message"),
    [
        ([], "rounds: none"),
        ([Round(0, math.nan, 1.0, 4)], r"rounds\[0\]: a number is not finite"),
        ([Round(0, 0.0, 1.0, 4, (0.0,)), Round(1, 0.0, 1.0, 4, (0.0, 1.0))], r"rounds\[1\]: a context of 2"),
    ],
)
def test_an_inconsistent_history_is_refused(rounds: list[Round], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        review(rounds, SPEC)


def test_a_region_without_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"radius: 0\.0; expected a finite number above 0"):
        propose_context([_measured(0, 0.0)], 0, 0.0, 1.0, 1.0, SPEC)
