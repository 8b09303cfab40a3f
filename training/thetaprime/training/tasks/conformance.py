"""The contract test of task distributions, for use in your own tests."""

import json
import warnings
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from thetaprime.models import BoxAction
from thetaprime.training.config import TrainConfig
from thetaprime.training.resources import NotEnoughMemoryError, check_memory
from thetaprime.training.tasks.protocol import BatchedTaskDistribution, Task, TaskDistribution


def check_task_distribution(
    distribution: TaskDistribution, *, seed: int = 0, config: TrainConfig | None = None
) -> None:
    """Checks that a task distribution meets every requirement of meta-training.

    - Meta-training on its observations fits into this machine's available memory.
    - Tasks are drawn reproducibly and can be written as JSON.
    - Each task's environment passes Gymnasium's checker, has the spaces of the contract, ends within the horizon, and
      repeats an episode for the same seed and actions.
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
    with warnings.catch_warnings():
        # Gymnasium also warns about style, such as actions beyond ±1: a warning, not a failure.
        warnings.simplefilter("default")
        check_env(env.unwrapped, skip_render_check=True)
    first, second = (_episode(distribution, task, seed) for _ in range(2))
    assert len(first) <= contract.horizon, f"an episode lasted {len(first)} steps; the horizon is {contract.horizon}"
    for step, (one, other) in enumerate(zip(first, second, strict=True)):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True)), (
            f"step {step} differs between two episodes with the same seed and actions"
        )
    env.close()


def _episode(distribution: TaskDistribution, task: Task, seed: int) -> list[tuple[Any, ...]]:
    env = distribution.make(task)
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    steps: list[tuple[Any, ...]] = []
    over = False
    while not over and len(steps) <= distribution.environment.horizon:
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        steps.append((observation, float(reward), terminated, truncated))
        over = terminated or truncated
    env.close()
    assert over, f"an episode continued past the horizon of {distribution.environment.horizon} steps"
    return steps


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
