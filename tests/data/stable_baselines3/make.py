"""Makes the files of this folder, in an environment that has stable-baselines3.

Each model has a file of observations beside it, and the deterministic actions that Stable-Baselines3 takes there.
"""

from pathlib import Path
from typing import Any, Final

import gymnasium
import numpy as np
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env

FOLDER: Final = Path(__file__).parent


def write(name: str, model: BaseAlgorithm, environment_id: str) -> None:
    """Writes a model, and its actions at the observations of a few random episodes."""
    model.save(FOLDER / f"{name}.zip", exclude=["policy.optimizer"])
    env: gymnasium.Env[Any, Any] = gymnasium.make(environment_id)
    env.action_space.seed(0)
    observations = [env.reset(seed=0)[0]]
    while len(observations) < 64:
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        observations.append(env.reset()[0] if terminated or truncated else observation)
    actions, _ = model.predict(np.stack(observations), deterministic=True)
    np.savez(FOLDER / f"{name}.npz", observations=np.stack(observations), actions=actions)


if __name__ == "__main__":
    torch.set_num_threads(1)
    pendulum = make_vec_env("Pendulum-v1", n_envs=4, seed=0)
    swinging = PPO("MlpPolicy", pendulum, gamma=0.9, n_steps=1024, learning_rate=1e-3, seed=0, device="cpu")
    write("pendulum-ppo", swinging.learn(200_000), "Pendulum-v1")
    pole = make_vec_env("CartPole-v1", n_envs=4, seed=0)
    network = {"net_arch": [32, 16], "activation_fn": torch.nn.ReLU}
    write(
        "cartpole-a2c", A2C("MlpPolicy", pole, seed=0, device="cpu", policy_kwargs=network).learn(10_000), "CartPole-v1"
    )
