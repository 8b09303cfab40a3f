"""The contract test of task distributions, for use in your own tests."""

import inspect
import json
import time
import warnings
from typing import Any, Final
from unittest import mock

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from thetaprime.models import BoxAction
from thetaprime.training.config import TrainConfig
from thetaprime.training.resources import NotEnoughMemoryError, check_memory
from thetaprime.training.tasks.protocol import (
    BatchedTaskDistribution,
    SettableTaskDistribution,
    Task,
    TaskDistribution,
    can_set_task,
)


def check_task_distribution(
    distribution: TaskDistribution, *, seed: int = 0, config: TrainConfig | None = None
) -> None:
    """Checks that a task distribution meets every requirement of meta-training.

    - Meta-training on its observations fits into this machine's available memory.
    - Tasks are drawn reproducibly and can be written as JSON.
    - Each task's environment passes Gymnasium's checker, has the spaces of the contract, ends within the horizon, and
      repeats an episode for the same seed and actions.
    - An environment that `set_task` gave a task equals one that `make` made for it, step by step.
    - A batched form agrees with the single environments step by step.

    Args:
        distribution: your task distribution.
        seed: of the tasks and actions that are tried.
        config: the run to estimate the memory of; None for the default settings.

    Raises:
        AssertionError: a requirement is not met; the message names it.
    """
    try:
        check_memory(distribution.environment, config or TrainConfig(tasks=type(distribution).__name__))
    except NotEnoughMemoryError as error:
        raise AssertionError(str(error)) from error
    tasks = list(distribution.sample_tasks(3, np.random.default_rng(seed)))
    assert len(tasks) == 3, f"sample_tasks(3) gave {len(tasks)} tasks"
    again = list(distribution.sample_tasks(3, np.random.default_rng(seed)))
    assert json.dumps(tasks) == json.dumps(again), "sample_tasks gave other tasks for the same generator state"
    for task in tasks:
        _check_environment(distribution, task, seed)
    if can_set_task(distribution):
        _check_set_task(distribution, tasks, seed)
    if isinstance(distribution, BatchedTaskDistribution):
        _check_batched(distribution, tasks, seed)


def _check_environment(distribution: TaskDistribution, task: Task, seed: int) -> None:
    contract = distribution.environment
    env = distribution.make(task)
    observation_space, action_space = env.observation_space, env.action_space
    assert isinstance(observation_space, Box), f"observation space {observation_space}; expected a Box"
    assert observation_space.shape == contract.observation_shape, (
        f"observation shape {observation_space.shape}; the contract says {contract.observation_shape}"
    )
    if isinstance(contract.action, BoxAction):
        assert isinstance(action_space, Box), f"action space {action_space}; the contract says box"
        assert action_space.shape == (contract.action.size,), (
            f"action shape {action_space.shape}; the contract says ({contract.action.size},)"
        )
        for bound in ("low", "high"):
            found, expected = getattr(action_space, bound), getattr(contract.action, bound)
            assert np.allclose(found, expected), f"action.{bound} is {found}; the contract says {expected}"
    else:
        assert isinstance(action_space, Discrete), f"action space {action_space}; the contract says discrete"
        assert (int(action_space.n), int(action_space.start)) == (contract.action.count, contract.action.start), (
            f"action space {action_space}; the contract says {contract.action}"
        )
    _check_repeats(distribution, task, seed)
    with warnings.catch_warnings():
        # Gymnasium also warns about style, such as actions beyond ±1: a warning, not a failure.
        warnings.simplefilter("default")
        check_env(env.unwrapped, skip_render_check=True)
    env.close()


def _check_repeats(distribution: TaskDistribution, task: Task, seed: int) -> None:
    """Runs an episode twice, the second time an hour later by the clock."""
    horizon = distribution.environment.horizon
    clock = time.time
    env = distribution.make(task)
    if "seed" not in inspect.signature(env.unwrapped.reset).parameters:
        env.close()
        return  # Gymnasium's checker names it
    first = _run(env, seed, horizon)
    env.close()
    with mock.patch("time.time", lambda: clock() + 3600.0):
        env = distribution.make(task)
        second = _run(env, seed, horizon)
        env.close()
    for step, (one, other) in enumerate(zip(first, second, strict=False)):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=False)), (
            f"{f'step {step - 1}' if step else 'reset'} differs between two episodes with the same seed and actions: "
            "take random numbers from self.np_random alone, which reset(seed=...) seeds; not from random, numpy.random "
            "or the clock"
        )


def _run(env: gymnasium.Env[Any, Any], seed: int, horizon: int) -> list[tuple[Any, ...]]:
    """The first observation, and what each step of an episode with random actions returns, without its info."""
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    outcomes: list[tuple[Any, ...]] = [(np.copy(observation),)]
    over = False
    while not over and len(outcomes) <= horizon:
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        outcomes.append((np.copy(observation), float(reward), terminated, truncated))
        over = terminated or truncated
    assert over, f"an episode continued past the horizon of {horizon} steps"
    return outcomes


def _check_set_task(distribution: SettableTaskDistribution, tasks: list[Task], seed: int) -> None:
    """Takes one environment through all tasks and back to the first, each time from the middle of an episode."""
    horizon = distribution.environment.horizon
    env = distribution.make(tasks[0])
    spaces = env.observation_space, env.action_space
    for number, task in enumerate([*tasks[1:], tasks[0]]):
        env.reset(seed=seed + 1)
        env.step(env.action_space.sample())
        returned = distribution.set_task(env, task)  # type: ignore[func-returns-value]
        assert returned is None, f"set_task returned {returned!r}; expected that it changes the environment it gets"
        made = distribution.make(task)
        for name, ours, theirs in zip(
            ("observation_space", "action_space"), spaces, (made.observation_space, made.action_space), strict=True
        ):
            assert ours == theirs, f"set_task, task {task}: {name} is {ours}; make gives {theirs}"
        for episode in range(_EPISODES):
            episode_seed = seed + _EPISODES * number + episode
            _check_equal(task, _run(env, episode_seed, horizon), _run(made, episode_seed, horizon))
        made.close()
    env.close()


def _check_equal(task: Task, told: list[tuple[Any, ...]], made: list[tuple[Any, ...]]) -> None:
    """Compares an episode after `set_task` with one of an environment that `make` made."""
    for step, (mine, theirs) in enumerate(zip(told, made, strict=False)):
        when = f"step {step - 1}" if step else "reset"
        for name, one, other in zip(_OUTCOME, mine, theirs, strict=False):
            assert np.array_equal(one, other), (
                f"set_task, task {task}, {when}: {name} is {_short(one, other)}; an environment that make made "
                f"gives {_short(other, one)} for the same seed and actions"
            )


_EPISODES: Final = 3  # of each task: random actions may meet no reward in one
_OUTCOME: Final = ("the observation", "the reward", "terminated", "truncated")


def _short(value: Any, other: Any) -> str:
    """A value; of an array, its first entries that differ from another's, with their indices."""
    one, two = np.asarray(value), np.asarray(other)
    if one.shape != two.shape or one.ndim == 0:
        return f"{value!r}" if one.ndim == 0 else f"of shape {one.shape}"
    differing = np.argwhere(~((one == two) | ((one != one) & (two != two))))[:3]
    return ", ".join(f"[{', '.join(map(str, index))}] = {one[tuple(index)]}" for index in differing.tolist())


def _check_batched(distribution: BatchedTaskDistribution, tasks: list[Task], seed: int) -> None:
    singles = [distribution.make(task) for task in tasks]
    batched = distribution.make_vector(tasks)
    mode = batched.metadata.get("autoreset_mode")
    assert mode == AutoresetMode.NEXT_STEP, f"make_vector's autoreset_mode is {mode}; expected NEXT_STEP"
    observations, _ = batched.reset(seed=seed)
    for index, env in enumerate(singles):
        env.action_space.seed(seed + index)
        # A vector environment seeds its i-th environment with seed + i.
        observation, _ = env.reset(seed=seed + index)
        assert np.array_equal(observation, observations[index]), f"task {index}: batched reset differs from single"
    running = np.ones(len(tasks), np.bool_)
    for step in range(distribution.environment.horizon):
        actions = np.stack([env.action_space.sample() for env in singles])
        observations, rewards, terminated, truncated, _ = batched.step(actions)
        for index in np.flatnonzero(running).tolist():
            single = singles[index].step(actions[index])
            assert np.array_equal(single[0], observations[index]), f"task {index}, step {step}: observations differ"
            assert float(single[1]) == float(rewards[index]), f"task {index}, step {step}: rewards differ"
            assert (single[2], single[3]) == (bool(terminated[index]), bool(truncated[index])), (
                f"task {index}, step {step}: terminated and truncated differ"
            )
        running &= ~(terminated | truncated)
        if not running.any():
            break
    batched.close()
    for env in singles:
        env.close()
