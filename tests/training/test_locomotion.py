import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st

from tests.support.training.contract import assert_meets_contract
from tests.support.training.locomotion import (
    HOWS,
    Floats,
    a_seed,
    draw_actions,
    every_body,
    every_kind,
    few,
    make,
    some_goals,
)
from thetaprime.training.tasks.distributions import (
    AntDirectionTasks,
    AntVelocityTasks,
    HalfCheetahDirectionTasks,
    HalfCheetahVelocityTasks,
    LocomotionTasks,
)
from thetaprime.training.tasks.environments.locomotion import ANT, DIRECTION, HALF_CHEETAH, VELOCITY, Body, Goal
from thetaprime.training.tasks.environments.locomotion import LocomotionVector as Vector
from thetaprime.training.tasks.environments.locomotion.bodies import State
from thetaprime.training.tasks.environments.locomotion.vector import Simulator

every_distribution = pytest.mark.parametrize(
    "distribution",
    [HalfCheetahVelocityTasks(), HalfCheetahDirectionTasks(), AntVelocityTasks(), AntDirectionTasks()],
    ids=lambda distribution: distribution.environment_name,
)


@pytest.mark.slow
@every_kind
@few
@given(seed=a_seed, hows=st.lists(st.sampled_from(HOWS), min_size=3, max_size=3), threads=st.sampled_from([1, 2, 3]))
def test_many_robots_equal_single_ones_to_the_bit(
    body: Body, kind: Goal, seed: int, hows: Sequence[str], threads: int
) -> None:
    """Over whole episodes with any end, and into the next episodes."""
    rng = np.random.default_rng(seed)
    goals = some_goals(kind, len(hows), rng)
    singles = SyncVectorEnv(
        [lambda goal=goal: make(body, kind, goal) for goal in goals],  # type: ignore[misc]
        autoreset_mode=AutoresetMode.NEXT_STEP,
    )
    many = Vector(body, kind, goals, len(goals), threads=threads)
    assert many.observation_space == singles.observation_space and many.action_space == singles.action_space
    expected, _ = singles.reset(seed=seed)
    observations, _ = many.reset(seed=seed)
    np.testing.assert_array_equal(observations, expected, strict=True)
    seen_truncated = np.zeros(len(goals), np.bool_)
    ended = np.zeros(len(goals), np.bool_)
    for step in range(205):
        actions = np.concatenate([draw_actions(how, (1, int(body.model.nu)), rng) for how in hows])
        theirs, ours = singles.step(actions), many.step(actions)
        for expectation, result in zip(theirs[:4], ours[:4], strict=True):
            np.testing.assert_array_equal(result, expectation, strict=True, err_msg=f"step {step}")
        # The velocity of a step that resets the robot belongs to no episode.
        if not ended.all():
            np.testing.assert_array_equal(ours[4]["x_velocity"][~ended], theirs[4]["x_velocity"][~ended])
        ended = ours[2] | ours[3]
        seen_truncated |= ours[3]
        if body is HALF_CHEETAH:
            assert ended.all() if step == 199 else not ended.any()
    assert seen_truncated.all() or body is ANT
    singles.close()


def test_an_ant_that_falls_ends_early_and_starts_again() -> None:
    """As in the single environment, without an effect on the other robots."""
    count, seed = 4, 3
    many = Vector(ANT, DIRECTION, 1.0, count, threads=2)
    singles = SyncVectorEnv([lambda: make(ANT, DIRECTION, 1.0)] * count, autoreset_mode=AutoresetMode.NEXT_STEP)
    start, _ = many.reset(seed=seed)
    np.testing.assert_array_equal(singles.reset(seed=seed)[0], start)
    rng = np.random.default_rng(0)
    falls, restarted = 0, False
    fallen = np.zeros(count, np.bool_)
    for _ in range(400):
        actions = draw_actions("extreme", (count, 8), rng)
        actions[0] = 0.0  # this one stands still
        expected, (observations, rewards, terminated, truncated, _) = singles.step(actions), many.step(actions)
        np.testing.assert_array_equal(observations, expected[0])
        np.testing.assert_array_equal(rewards, expected[1])
        np.testing.assert_array_equal(terminated, expected[2])
        np.testing.assert_array_equal(truncated, expected[3])
        if fallen.any():
            assert (rewards[fallen] == 0).all() and not (terminated | truncated)[fallen].any()
            assert (np.abs(observations[fallen, 0] - ANT.model.qpos0[2]) <= ANT.reset_noise).all()
            restarted = True
        assert not terminated[0]
        height = observations[:, 0]
        np.testing.assert_array_equal(terminated & ~fallen, ((height < 0.2) | (height > 1.0)) & ~fallen)
        fallen = terminated
        falls += int(terminated.sum())
    assert falls and restarted
    singles.close()


@every_body
def test_the_number_of_threads_changes_nothing(body: Body) -> None:
    def run(threads: int) -> list[Floats]:
        env = Vector(body, VELOCITY, 1.0, 7, threads=threads)
        rng = np.random.default_rng(5)
        seen = [env.reset(seed=2)[0]]
        for _ in range(40):
            observations, rewards, *_ = env.step(draw_actions("random", (7, int(body.model.nu)), rng))
            seen += [observations, rewards]
        return seen

    once = run(1)
    for threads in (2, 3, 8):
        for one, other in zip(once, run(threads), strict=True):
            np.testing.assert_array_equal(one, other)


@every_body
def test_parked_robots_are_not_simulated(body: Body, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated: list[tuple[Simulator, int]] = []
    step = Simulator.step

    def counted(self: Simulator, state: State, actions: npt.ArrayLike) -> tuple[State, Floats]:
        simulated.append((self, len(state.position)))
        return step(self, state, actions)

    monkeypatch.setattr(Simulator, "step", counted)
    reference, env = (Vector(body, VELOCITY, 1.0, 4, max_episode_steps=30, threads=2) for _ in range(2))
    for each in (reference, env):
        each.reset(seed=7)
    rng = np.random.default_rng(0)
    shape = (4, int(body.model.nu))
    for _ in range(10):
        actions = draw_actions("random", shape, rng)
        before, *_ = env.step(actions)
        reference.step(actions)
    parked = np.array([False, True, False, True])
    env.park(parked)
    simulated.clear()
    for _ in range(35):  # past the truncation of the others, which restart
        actions = draw_actions("random", shape, rng)
        expected, got = reference.step(actions), env.step(actions)
        for one, other in zip(expected[:4], got[:4], strict=True):
            np.testing.assert_array_equal(other[~parked], one[~parked])
        np.testing.assert_array_equal(got[0][parked], before[parked])
        assert not got[1][parked].any() and not (got[2] | got[3])[parked].any()
    assert max(count for simulator, count in simulated if simulator is env._simulator) == 2
    env.park(~parked)
    simulated.clear()
    env.step(draw_actions("random", shape, rng))
    assert simulated == []
    # A reset restarts all of them.
    first, _ = env.reset(seed=7)
    np.testing.assert_array_equal(first, reference.reset(seed=7)[0])
    actions = draw_actions("random", shape, rng)
    for one, other in zip(reference.step(actions)[:4], env.step(actions)[:4], strict=True):
        np.testing.assert_array_equal(one, other)


@every_kind
def test_gymnasiums_checker_passes(body: Body, kind: Goal) -> None:
    env = make(body, kind)
    assert env.spec is not None and env.spec.max_episode_steps == 200
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # it also warns about style, such as unbounded observations
        check_env(env.unwrapped, skip_render_check=True)
    env.close()


def test_gymnasium_makes_it_with_a_goal() -> None:
    env = gymnasium.make("thetaprime/HalfCheetahVelocity-v0", goal=1.3)
    env.reset(seed=0)
    _, reward, *_, info = env.step(np.zeros(6, np.float32))
    assert reward == pytest.approx(-abs(info["x_velocity"] - 1.3))
    env.close()


_RENDER = """
import sys, gymnasium
try:
    theirs = gymnasium.make("HalfCheetah-v5", render_mode="rgb_array")
    theirs.reset(seed=0)
    theirs.render()
except Exception as problem:
    print(type(problem).__name__, problem)
    sys.exit(77)
import thetaprime.training
for name in ("HalfCheetahVelocity", "AntDirection"):
    env = gymnasium.make(f"thetaprime/{name}-v0", goal=1.0, render_mode="rgb_array", width=160, height=120)
    env.reset(seed=0)
    before = env.render()
    assert before.shape == (120, 160, 3) and before.std() > 5, before.shape
    for _ in range(20):
        env.step(env.action_space.sample())
    assert (env.render() != before).any()
    env.close()
"""


@pytest.mark.slow
def test_a_robot_can_be_rendered_without_a_screen(tmp_path: Path) -> None:
    # In a separate process: the backend is chosen once, when OpenGL is imported.
    problems = []
    for backend in ("egl", "osmesa"):
        result = subprocess.run(
            [sys.executable, "-c", _RENDER],
            env={**os.environ, "MUJOCO_GL": backend},
            cwd=tmp_path,  # MuJoCo logs warnings about Gymnasium's models into the working directory
            capture_output=True,
            text=True,
            timeout=120,
        )
        if result.returncode == 0:
            return
        assert result.returncode == 77, result.stderr
        problems.append(f"{backend}: {result.stdout.strip()[:120]}")
    pytest.skip(f"needs EGL or OSMesa: apt-get install libegl1 libgl1-mesa-dri ({'; '.join(problems)})")


@pytest.mark.parametrize(
    ("kind", "goal", "expected"),
    [
        (VELOCITY, np.nan, "a forward velocity in m/s, finite"),
        (VELOCITY, np.inf, "a forward velocity in m/s, finite"),
        (VELOCITY, [1.0, 2.0], "a forward velocity in m/s, finite"),
        (DIRECTION, 0.5, r"1 \(forward\) or -1 \(backward\)"),
        (DIRECTION, 0.0, r"1 \(forward\) or -1 \(backward\)"),
        (DIRECTION, np.nan, r"1 \(forward\) or -1 \(backward\)"),
    ],
)
@every_body
def test_a_bad_goal_is_refused(body: Body, kind: Goal, goal: Any, expected: str) -> None:
    came = str(goal).replace("[", r"\[").replace("]", r"\]")
    with pytest.raises(ValueError, match=f"goal: {came}; expected {expected}"):
        make(body, kind, goal)
    with pytest.raises(ValueError, match=f"goal: {came}; expected {expected}"):
        Vector(body, kind, goal, 3)


@every_distribution
def test_distributions_meet_the_contract(distribution: LocomotionTasks) -> None:
    assert_meets_contract(distribution)


@every_distribution
def test_goals_follow_the_papers_distribution(distribution: LocomotionTasks) -> None:
    tasks = distribution.sample_tasks(4000, np.random.default_rng(0))
    goals = np.array([task["goal"] for task in tasks])
    if distribution.kind is DIRECTION:
        assert sorted(set(goals.tolist())) == [-1.0, 1.0]
        assert goals.sum() == 0, "a batch is lopsided"
        # An odd batch cannot be balanced: chance decides which direction has one more.
        fives = (distribution.sample_tasks(5, np.random.default_rng(seed)) for seed in range(30))
        assert {np.sum([task["goal"] for task in tasks]) for tasks in fives} == {-1.0, 1.0}
    else:
        top = 2.0 if distribution.body is HALF_CHEETAH else 3.0
        assert goals.min() >= 0.0 and goals.max() <= top
        # Kolmogorov and Smirnov's distance from U(0, top); 0.03 for 4000 draws is beyond one in a thousand.
        distance = np.abs(np.sort(goals) / top - (np.arange(4000) + 0.5) / 4000).max()
        assert distance < 0.03


@every_distribution
def test_nan_actions_are_refused(distribution: LocomotionTasks) -> None:
    """MuJoCo would replace NaN by zero, write to a log file, and continue."""
    tasks = distribution.sample_tasks(2, np.random.default_rng(0))
    actions = np.zeros((2, distribution.environment.action.size), np.float32)
    actions[1, 0] = np.nan
    env = distribution.make(tasks[0])
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action: NaN; expected numbers"):
        env.step(actions[1])
    env.close()
    vector = distribution.make_vector(tasks)
    vector.reset(seed=0)
    with pytest.raises(ValueError, match="action: NaN; expected numbers"):
        vector.step(actions)
    vector.close()
