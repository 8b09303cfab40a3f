"""Evaluates a policy's file with onnxruntime alone, as any program without ThetaPrime can."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime


@dataclasses.dataclass(frozen=True, eq=False)
class Rollouts:
    """Fresh episodes with a policy.

    Attributes:
        returns: undiscounted return of each episode.
        paths: the observations of each episode, [H + 1, O].
    """

    returns: npt.NDArray[np.float64]
    paths: list[npt.NDArray[np.float32]]

    @property
    def mean(self) -> float:
        """Mean return over the episodes."""
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        """Standard deviation of the return over the episodes."""
        return float(self.returns.std())


def roll_out(onnx: bytes, env: Any, episodes: int, seed: int) -> Rollouts:
    """Runs episodes with actions sampled from a Gaussian policy.

    Args:
        onnx: the policy's file.
        env: a Gymnasium `Env` with bounded Box actions. The caller closes it.
        episodes: number of episodes.
        seed: seed of the environment and of the actions.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng([seed, 1])
    low, high = env.action_space.low, env.action_space.high
    returns, paths = np.zeros(episodes), []
    for episode in range(episodes):
        observation, _ = env.reset(seed=seed if episode == 0 else None)
        path, over = [observation], False
        while not over:
            mean, log_std = session.run(["mean", "log_std"], {"obs": observation[None]})
            action = mean[0] + np.exp(log_std) * rng.standard_normal(len(log_std))
            scaled = low + (np.clip(action, -1.0, 1.0) + 1.0) / 2.0 * (high - low)
            observation, reward, terminated, truncated, _ = env.step(scaled.astype(np.float32))
            path.append(observation)
            returns[episode] += reward
            over = terminated or truncated
        paths.append(np.asarray(path))
    return Rollouts(returns, paths)
