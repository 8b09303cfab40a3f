"""Policies that remember (RL², Duan et al. 2016; Wang et al. 2016): a recurrent cell beside the observation."""

from thetaprime.models.memory.cells import MemoryState
from thetaprime.models.memory.policy import MemoryInputs, RecurrentPolicy

__all__ = ["MemoryInputs", "MemoryState", "RecurrentPolicy"]
