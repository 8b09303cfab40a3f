"""Compares collection through the client with the same loop on bare onnxruntime."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from benchmarks.act import bare_session
from benchmarks.measure import Row, compare
from benchmarks.policies import shipped
from thetaprime.client import AdaptedPolicy, collect
from thetaprime.training.tasks.environments.locomotion import HALF_CHEETAH, VELOCITY, LocomotionVector
from thetaprime.training.tasks.environments.point_navigation import PointNavigationVector

ENVIRONMENTS = 20
# At most 10 % fewer steps per second.
BUDGET = 1 / 0.9


def rows() -> list[Row]:
    """Measures 20 parallel episodes, in a nearly free environment and in half-cheetah."""
    cheetahs = functools.partial(LocomotionVector, HALF_CHEETAH, VELOCITY)
    return [_row("point-navigation", PointNavigationVector, 100), _row("half-cheetah-velocity", cheetahs, 20)]


def _row(name: str, make: Callable[..., VectorEnv[Any, Any, Any]], rounds: int) -> Row:
    meta_policy = shipped(name)
    onnx = meta_policy.export(meta_policy.parameters).onnx
    policy, session, env = AdaptedPolicy(onnx, seed=0), bare_session(onnx), make(num_envs=ENVIRONMENTS)
    contract = policy.contract
    low, high = np.float32(contract.action_low), np.float32(contract.action_high)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)

    def bare() -> None:
        recorded = []
        observations, _ = env.reset(seed=0)
        for _ in range(contract.horizon):
            observations = observations.astype(np.float32)
            mean, log_std = session.run(["mean", "log_std"], {"obs": observations})
            actions = mean + np.exp(log_std) * rng.standard_normal(mean.shape, np.float32)
            taken = np.clip(low + (actions + 1) / 2 * (high - low), low, high)
            following, rewards, terminated, _, _ = env.step(taken)
            recorded.append((observations, actions, rewards, terminated))
            observations = following
        for column in zip(*recorded, strict=True):
            np.stack(column)

    return compare(
        f"collection of {ENVIRONMENTS} episodes of {name} / the same loop on bare onnxruntime",
        lambda: collect(policy, env, ENVIRONMENTS, seed=0),
        bare,
        budget=BUDGET,
        rounds=rounds,
    )
