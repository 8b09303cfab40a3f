"""Samples the actions of an environment's episodes, with or without a memory."""

from typing import Any

import numpy as np
import numpy.typing as npt

from thetaprime.client._policy.adapted_policy import AdaptedPolicy
from thetaprime.client._policy.policy_state import PolicyState, merge_states


class Acting:
    """Acts in B robots, each of which lives one lifetime: its memory is kept from episode to episode.

    Args:
        policy: the behavior policy. What it remembers itself does not change.
        count: B.
        rng: generator of the noise.
    """

    def __init__(self, policy: AdaptedPolicy, count: int, rng: np.random.Generator) -> None:
        self._policy, self._rng = policy, rng
        self._state: PolicyState | None = None
        self._axes: dict[str, int] = {}
        if policy.memory is not None:
            self._state = policy.begin(count)
            self._axes = {each.input: each.axis for each in policy.memory.states}

    def sample(self, obs: npt.NDArray[np.float32], running: npt.NDArray[np.bool_]) -> tuple[Any, Any]:
        """Samples an action for each robot, in the environment's and in the policy's units.

        Args:
            obs: [B, *observation_shape], or [*observation_shape] where B is 1.
            running: [B]: the robots whose episode runs; the others remember nothing of this step.
        """
        if self._state is None:
            return self._policy.sample(obs, rng=self._rng)
        taken, recorded, following = self._policy.sample_step(obs, self._state, rng=self._rng)
        self._keep(following, running)
        return taken, recorded

    def observe(self, reward: npt.ArrayLike, done: npt.ArrayLike, running: npt.NDArray[np.bool_]) -> None:
        """Takes the rewards of the actions, and whether they ended the episodes, [B] each."""
        if self._state is not None:
            self._keep(self._state.observe(reward, np.asarray(done, np.bool_)), running)

    def _keep(self, following: PolicyState, running: npt.NDArray[np.bool_]) -> None:
        if self._state is not None:
            whole = bool(running.all())
            self._state = following if whole else merge_states(self._state, following, running, self._axes)
