"""Collecting trajectories from real Gymnasium environments, single and vectorized."""

import functools
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

import thetaprime.client as tp
from thetaprime import wire

Theta = Callable[[str], tp.AdaptedPolicy]
MODES = list(AutoresetMode)


def box(low: list[float], high: list[float]) -> Box:
    return Box(np.array(low, np.float32), np.array(high, np.float32))


class Counter(gymnasium.Env[Any, Any]):
    """Observes (episode, step). Ends after `lengths[episode]` steps; 0 means never."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float64)
    action_space = box([-1, 0, -3], [1, 10, 5])

    def __init__(self, lengths: tuple[int, ...] = (3, 5), terminates: bool = True) -> None:
        self._lengths, self._terminates = lengths, terminates
        self._state = np.array([-1.0, 0.0])
        self.actions: list[np.ndarray[Any, Any]] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._state += [1.0, -self._state[1]]
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.actions.append(action)
        self._state[1] += 1.0
        length = self._lengths[int(self._state[0]) % len(self._lengths)]
        over = self._state[1] == length
        return self.observe(), float(self._state[1]), over and self._terminates, over and not self._terminates, {}

    def observe(self) -> np.ndarray[Any, Any]:
        return self._state.copy()


class InPlace(Counter):
    """Returns the same array every time, and overwrites it."""

    def observe(self) -> np.ndarray[Any, Any]:
        return self._state


def check(trajectories: list[wire.Trajectory], policy: tp.AdaptedPolicy) -> None:
    assert trajectories
    for trajectory in trajectories:
        wire.validate(trajectory, policy.contract)
        assert trajectory.policy_id == policy.policy_id
        assert trajectory.observations.dtype == trajectory.rewards.dtype == np.float32
        assert trajectory.actions.dtype == (
            np.int64 if policy.contract.action_kind is wire.ActionKind.DISCRETE else np.float32
        )


def check_counter(trajectory: wire.Trajectory) -> None:
    """The observations of one episode are (e, 0), (e, 1), ... and the final one is (e, H)."""
    steps, episode = len(trajectory), trajectory.observations[0, 0]
    np.testing.assert_array_equal(trajectory.observations, [[episode, step] for step in range(steps)])
    np.testing.assert_array_equal(trajectory.final_observation, [episode, steps])
    np.testing.assert_array_equal(trajectory.rewards, np.arange(1, steps + 1))


@pytest.mark.parametrize(("name", "env_id"), [("pendulum", "Pendulum-v1"), ("cart-pole", "CartPole-v1")])
def test_a_single_environment(name: str, env_id: str, theta: Theta) -> None:
    policy = theta(name)
    with gymnasium.make(env_id) as env:
        trajectories = tp.collect(policy, env, 5, seed=0)
    assert len(trajectories) == 5
    check(trajectories, policy)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "env_id"), [("pendulum", "Pendulum-v1"), ("cart-pole", "CartPole-v1")])
def test_a_vector_environment(name: str, env_id: str, mode: AutoresetMode, theta: Theta) -> None:
    policy = theta(name)
    env = gymnasium.make_vec(env_id, 3, "sync", vector_kwargs={"autoreset_mode": mode})
    trajectories = tp.collect(policy, env, 5, seed=0)
    env.close()
    assert len(trajectories) == 5
    check(trajectories, policy)


def test_a_natively_vectorized_environment(theta: Theta) -> None:
    policy = theta("cart-pole")
    env = gymnasium.make_vec("CartPole-v1", 4, "vector_entry_point")
    trajectories = tp.collect(policy, env, 10, seed=0)
    env.close()
    assert len(trajectories) == 10
    check(trajectories, policy)


def test_an_environment_in_other_processes(theta: Theta) -> None:
    policy = theta("half-open")
    env = AsyncVectorEnv([Counter, Counter], context="spawn", autoreset_mode=AutoresetMode.SAME_STEP)
    trajectories = tp.collect(policy, env, 4, seed=0)
    env.close()
    # The second wave's reset skips episode 1, which the autoreset had begun.
    assert [len(trajectory) for trajectory in trajectories] == [3] * 4
    for trajectory in trajectories:
        check_counter(trajectory)


@pytest.mark.parametrize("kind", [Counter, InPlace])
@pytest.mark.parametrize("terminates", [True, False])
def test_every_step_and_the_final_observation_of_a_single_environment(
    terminates: bool, kind: type[Counter], theta: Theta
) -> None:
    trajectories = tp.collect(theta("half-open"), kind((3, 5, 1), terminates), 6)
    assert [len(trajectory) for trajectory in trajectories] == [3, 5, 1, 3, 5, 1]
    for trajectory in trajectories:
        check_counter(trajectory)
        assert (trajectory.terminated, trajectory.truncated) == (terminates, not terminates)


@pytest.mark.parametrize("terminates", [True, False])
@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_every_step_and_the_final_observation_of_a_vector_environment(
    mode: AutoresetMode, copy: bool, terminates: bool, theta: Theta
) -> None:
    policy = theta("half-open")
    lengths = [(3, 5), (1, 2), (7, 4)]
    makers = [functools.partial(Counter, each, terminates) for each in lengths]
    env = SyncVectorEnv(makers, copy=copy, autoreset_mode=mode)
    trajectories = tp.collect(policy, env, 7)
    assert len(trajectories) == 7
    check(trajectories, policy)
    for trajectory in trajectories:
        check_counter(trajectory)
        assert (trajectory.terminated, trajectory.truncated) == (terminates, not terminates)
    assert [len(trajectory) for trajectory in trajectories[:3]] == [3, 1, 7]


@pytest.mark.parametrize("mode", MODES)
def test_short_episodes_are_not_favored(mode: AutoresetMode, theta: Theta) -> None:
    """Half of the sub-environments end after 1 step, half after 10, and so do the collected episodes."""
    makers = [functools.partial(Counter, (length,)) for length in (1, 10, 1, 10)]
    trajectories = tp.collect(theta("half-open"), SyncVectorEnv(makers, autoreset_mode=mode), 12)
    assert sorted(len(trajectory) for trajectory in trajectories) == [1] * 6 + [10] * 6


def test_an_episode_that_does_not_end_is_truncated_at_the_horizon(theta: Theta) -> None:
    policy = theta("half-open")
    trajectories = tp.collect(policy, Counter((0, 2)), 4)
    assert [len(trajectory) for trajectory in trajectories] == [10, 2, 10, 2]
    assert [trajectory.truncated for trajectory in trajectories] == [True, False, True, False]
    check(trajectories, policy)


@pytest.mark.parametrize("mode", MODES)
def test_a_vector_environment_that_does_not_end_is_truncated_at_the_horizon(mode: AutoresetMode, theta: Theta) -> None:
    policy = theta("half-open")
    makers = [functools.partial(Counter, (0,)), functools.partial(Counter, (2,))]
    trajectories = tp.collect(policy, SyncVectorEnv(makers, autoreset_mode=mode), 4)
    assert [len(trajectory) for trajectory in trajectories] == [10, 2, 10, 2]
    for trajectory in trajectories:
        check_counter(trajectory)
        assert trajectory.truncated == (len(trajectory) == 10)
    check(trajectories, policy)


def test_termination_at_the_horizon_is_not_truncation(theta: Theta) -> None:
    (trajectory,) = tp.collect(theta("half-open"), Counter((10,)), 1)
    assert (trajectory.terminated, trajectory.truncated) == (True, False)


def test_trajectories_record_unclipped_actions_and_the_environment_gets_its_units(theta: Theta) -> None:
    env = Counter((10,))
    (trajectory,) = tp.collect(theta("half-open"), env, 1, seed=3)
    assert np.abs(trajectory.actions).max() > 1
    low, high = env.action_space.low, env.action_space.high
    scaled = low + (np.clip(trajectory.actions, -1, 1) + 1) / 2 * (high - low)
    np.testing.assert_allclose(np.stack(env.actions), scaled, atol=1e-5)


def test_trajectories_record_indices_from_0_and_the_environment_gets_start(theta: Theta) -> None:
    taken: list[int] = []

    class Grid(gymnasium.Env[Any, Any]):
        observation_space = Box(-1, 1, (2, 3), np.float32)
        action_space = Discrete(4, start=5)

        def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
            return np.zeros((2, 3), np.float32), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            assert self.action_space.contains(action)
            taken.append(int(action))
            return np.zeros((2, 3), np.float32), 0.0, False, False, {}

    (trajectory,) = tp.collect(theta("grid"), Grid(), 1)
    np.testing.assert_array_equal(trajectory.actions + 5, taken)
    assert trajectory.observations.shape == (10, 2, 3)


def test_equal_seeds_give_equal_trajectories(theta: Theta) -> None:
    policy = theta("cart-pole")
    with gymnasium.make("CartPole-v1") as env:
        first, second, other = (tp.collect(policy, env, 3, seed=seed) for seed in (4, 4, 5))
    assert wire.pack(first) == wire.pack(second)
    assert wire.pack(first) != wire.pack(other)


def test_environment_and_policy_draw_different_noise(theta: Theta) -> None:
    """Equal seeds of both generators would give equal numbers."""
    noise: list[float] = []

    class Noisy(Counter):
        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            noise.append(self.np_random.standard_normal(dtype=np.float32))
            return super().step(action)

    policy = theta("half-open")
    (trajectory,) = tp.collect(policy, Noisy((10,)), 1, seed=0)
    drawn = set((trajectory.actions - policy.act(trajectory.observations)).ravel())
    assert not drawn & set(noise)


def test_progress_counts_episodes(theta: Theta) -> None:
    seen: list[int] = []
    tp.collect(theta("half-open"), Counter(), 3, progress=seen.append)
    assert seen == [1, 2, 3]


def spaces(observation: Any, action: Any) -> gymnasium.Env[Any, Any]:
    env = Counter()
    env.observation_space, env.action_space = observation, action
    return env


BOX2 = Box(-np.inf, np.inf, (2,), np.float32)


@pytest.mark.parametrize(
    ("env", "field"),
    [
        (object(), "env"),
        (spaces(Box(-1, 1, (3,)), Counter.action_space), "env.observation_space"),
        (spaces(Dict(a=BOX2), Counter.action_space), "env.observation_space"),
        (spaces(BOX2, Discrete(3)), "env.action_space"),
        (spaces(BOX2, Box(-1, 1, (2,))), "env.action_space"),
        (spaces(BOX2, box([-1, 0, -3], [1, 9, 5])), "env.action_space.high[1]"),
        (spaces(BOX2, box([-1, 0, -np.inf], [1, 10, 5])), "env.action_space.low[2]"),
    ],
)
def test_a_mismatched_environment_is_refused_by_field(env: Any, field: str, theta: Theta) -> None:
    with pytest.raises(tp.InvalidInputError) as caught:
        tp.collect(theta("half-open"), env, 1)
    assert caught.value.violations[0].field == field


@pytest.mark.parametrize(
    ("space", "field"),
    [
        (Discrete(3, start=5), "env.action_space.n"),
        (Discrete(4), "env.action_space.start"),
        (MultiDiscrete([4]), "env.action_space"),
        (Box(-1, 1, (4,)), "env.action_space"),
    ],
)
def test_mismatched_discrete_actions_are_refused_by_field(space: Any, field: str, theta: Theta) -> None:
    with pytest.raises(tp.InvalidInputError) as caught:
        tp.collect(theta("grid"), spaces(Box(-1, 1, (2, 3)), space), 1)
    assert caught.value.violations[0].field == field


def test_a_vector_environment_without_autoreset_mode_is_refused(theta: Theta) -> None:
    env = SyncVectorEnv([Counter])
    del env.metadata["autoreset_mode"]
    with pytest.raises(tp.InvalidInputError, match="autoreset_mode"):
        tp.collect(theta("half-open"), env, 1)


def test_zero_trajectories_are_refused(theta: Theta) -> None:
    with pytest.raises(tp.InvalidInputError, match="trajectories: 0"):
        tp.collect(theta("half-open"), Counter(), 0)
