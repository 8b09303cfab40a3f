import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

from thetaprime.training.registration import POINT_NAVIGATION_ID
from thetaprime.training.tasks.environments.point_navigation import PointNavigation, advance

coordinate = st.floats(-2, 2, allow_nan=False)


def test_gymnasium_makes_the_registered_environment() -> None:
    env = gymnasium.make(POINT_NAVIGATION_ID, goal=(0.3, -0.2))
    assert env.spec is not None and env.spec.max_episode_steps == 100
    check_env(env.unwrapped, skip_render_check=True)


def test_the_definition_of_the_paper_holds() -> None:
    env = gymnasium.make(POINT_NAVIGATION_ID, goal=(0.3, -0.2))
    observation, _ = env.reset(seed=0)
    assert observation.tolist() == [0.0, 0.0]
    observation, reward, terminated, truncated, _ = env.step(np.array([5.0, -0.05], np.float32))
    np.testing.assert_allclose(observation, [0.1, -0.05], atol=1e-7)
    assert reward == pytest.approx(-np.hypot(0.2, 0.15))
    assert not terminated and not truncated
    env.step(np.array([0.1, -0.1], np.float32))
    _, reward, terminated, _, _ = env.step(np.array([0.1, -0.055], np.float32))
    assert terminated and reward == pytest.approx(-0.005, abs=1e-6)


def test_truncated_after_a_hundred_steps() -> None:
    env = gymnasium.make(POINT_NAVIGATION_ID, goal=(0.5, 0.5))
    env.reset(seed=0)
    ends = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(100)]
    assert ends[:-1] == [(False, False)] * 99 and ends[-1] == (False, True)


@given(x=coordinate, y=coordinate, u=coordinate, v=coordinate, goal_x=coordinate, goal_y=coordinate)
def test_reward_is_the_distance_after_a_bounded_move(
    x: float, y: float, u: float, v: float, goal_x: float, goal_y: float
) -> None:
    start, goal = np.array([x, y]), np.array([goal_x, goal_y])
    moved, reward, arrived = advance(start, [u, v], goal)
    assert np.abs(moved - start).max() <= 0.1 + 1e-12
    assert reward == pytest.approx(-np.linalg.norm(moved - goal), abs=1e-12)
    assert bool(arrived) == bool(np.abs(moved - goal).max() < 0.01)


@pytest.mark.parametrize("goal", [(0.1,), (np.nan, 0.0), ((0.1, 0.2), (0.3, 0.4))])
def test_a_bad_goal_is_refused(goal: object) -> None:
    with pytest.raises(ValueError, match=r"goal: .* expected two finite numbers"):
        PointNavigation(goal)  # type: ignore[arg-type]
