"""Compares an environment's spaces with a policy's contract."""

from typing import Any

import numpy as np

from thetaprime import wire
from thetaprime.client._errors import InvalidInputError


def check_environment(env: Any, contract: wire.EnvironmentContract, field: str = "env") -> None:
    """Refuses an environment whose spaces differ from a policy's contract.

    Args:
        env: a Gymnasium `Env` or `VectorEnv`.
        contract: the contract of the environment that the policy was trained on.
        field: names the environment in the error.

    Raises:
        InvalidInputError: the observation shape, or the kind, number or range of actions differs.
    """
    prefix = "single_" if is_vector(env) else ""
    observation_space = getattr(env, f"{prefix}observation_space", None)
    action_space = getattr(env, f"{prefix}action_space", None)
    if observation_space is None or action_space is None:
        raise InvalidInputError.at(field, f"{type(env).__name__} has no spaces; expected a Gymnasium Env or VectorEnv")
    _check_observations(observation_space, contract, f"{field}.{prefix}observation_space")
    if contract.action_kind is wire.ActionKind.BOX:
        _check_box(action_space, contract, f"{field}.{prefix}action_space")
    else:
        _check_discrete(action_space, contract, f"{field}.{prefix}action_space")


def is_environment(env: Any) -> bool:
    """Returns whether `env` has the spaces of an environment."""
    prefix = "single_" if is_vector(env) else ""
    return hasattr(env, f"{prefix}action_space") and hasattr(env, f"{prefix}observation_space")


def is_vector(env: Any) -> bool:
    """Returns whether `env` is a `VectorEnv`, or has its attributes."""
    return hasattr(env, "num_envs")


def _check_observations(space: Any, contract: wire.EnvironmentContract, field: str) -> None:
    dtype = getattr(space, "dtype", None)
    if space.shape != contract.observation_shape or dtype is None or np.dtype(dtype).kind not in "fiub":
        raise InvalidInputError.at(
            field, f"{space}; the policy takes one array of shape {list(contract.observation_shape)}"
        )


def _check_box(space: Any, contract: wire.EnvironmentContract, field: str) -> None:
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    if low is None or high is None or space.shape != (contract.action_size,):
        raise InvalidInputError.at(field, f"{space}; the policy returns Box actions of shape [{contract.action_size}]")
    for name, actual, expected in (("low", low, contract.action_low), ("high", high, contract.action_high)):
        if np.array_equal(actual, expected):
            continue
        # One side may have the bound rounded to float32.
        same = np.isclose(actual, np.asarray(expected), rtol=1e-6, atol=1e-9)
        if not same.all():
            index = int(np.argmin(same))
            raise InvalidInputError.at(
                f"{field}.{name}[{index}]", f"{actual[index]:g}; expected {expected[index]:g}, as in training"
            )


def _check_discrete(space: Any, contract: wire.EnvironmentContract, field: str) -> None:
    count, start = getattr(space, "n", None), getattr(space, "start", 0)
    if count is None or space.shape != ():
        raise InvalidInputError.at(field, f"{space}; the policy chooses one of {contract.action_size} actions")
    if count != contract.action_size:
        raise InvalidInputError.at(f"{field}.n", f"{count}; expected {contract.action_size}, as in training")
    if start != contract.action_start:
        raise InvalidInputError.at(f"{field}.start", f"{start}; expected {contract.action_start}, as in training")
