"""Point navigation, played as a device plays it: with a policy's ONNX file and without torch."""

from typing import Final, Protocol

import numpy as np
import onnxruntime

from thetaprime import wire

NAME: Final = "point-navigation"
_GOAL: Final = np.array([0.3, -0.4])
_SPEED: Final = 0.1


class OnnxPolicy(Protocol):
    """A policy with its ONNX file: a message of the wire, or one of the SDK's."""

    @property
    def onnx(self) -> bytes: ...

    @property
    def policy_id(self) -> str: ...


def play(policy: OnnxPolicy, rng: np.random.Generator, trajectories: int = 2, steps: int = 8) -> list[wire.Trajectory]:
    """Collects trajectories toward one fixed goal, with sampled actions."""
    session = onnxruntime.InferenceSession(policy.onnx, providers=["CPUExecutionProvider"])
    position = np.zeros((trajectories, 2), np.float32)
    observations, actions, rewards = [], [], []
    for _ in range(steps):
        mean, log_std = session.run(["mean", "log_std"], {"obs": position})
        action = mean + np.exp(log_std) * rng.standard_normal(mean.shape, np.float32)
        observations.append(position)
        actions.append(action)
        position = (position + np.clip(action, -1, 1) * _SPEED).astype(np.float32)
        rewards.append(-np.linalg.norm(position - _GOAL, axis=1).astype(np.float32))
    return [
        wire.Trajectory(
            observations=np.stack(observations)[:, n],
            actions=np.stack(actions)[:, n],
            rewards=np.stack(rewards)[:, n],
            terminated=False,
            truncated=True,
            final_observation=position[n],
            policy_id=policy.policy_id,
        )
        for n in range(trajectories)
    ]


def collect(policy: OnnxPolicy, trajectories: int = 4, steps: int = 8, seed: int = 0) -> list[wire.Trajectory]:
    """Collects trajectories from a seed; the same seed gives the same trajectories."""
    return play(policy, np.random.default_rng(seed), trajectories, steps)
