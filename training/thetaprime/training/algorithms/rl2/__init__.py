"""RL² (Duan et al. 2016; Wang et al. 2016): a memory learns to adapt within the lifetime of a task, by PPO."""

from thetaprime.training.algorithms.rl2.normalization import trained_spec
from thetaprime.training.algorithms.rl2.rl2 import RL2

__all__ = ["RL2", "trained_spec"]
