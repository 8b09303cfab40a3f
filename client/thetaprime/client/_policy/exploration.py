"""Sampling actions from the distribution that a policy's file gives, outside of the graph.

An in-graph generator would give two sessions of one process the same noise, and start anew with every session.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from thetaprime import wire

# Noise is drawn this many actions at a time: one draw costs as much as the network.
_NOISE_BLOCK: Final = 256


class Exploration:
    """Turns a distribution's parameters and noise into actions.

    Args:
        contract: what the environment takes.
        log_std: [A] log standard deviations in the policy's units; empty for discrete actions.
        seed: of the noise; None draws one from the system.
    """

    def __init__(
        self, contract: wire.EnvironmentContract, log_std: npt.NDArray[np.float32], seed: int | None = None
    ) -> None:
        self._box = contract.action_kind is wire.ActionKind.BOX
        self._size = contract.action_size
        self._start = contract.action_start
        self._std = np.exp(log_std).astype(np.float32)
        low = np.asarray(contract.action_low, np.float32)
        high = np.asarray(contract.action_high, np.float32)
        # A dimension without both bounds passes as it is: scaled by 1, clipped at infinity.
        bounded = np.isfinite(low) & np.isfinite(high)
        with np.errstate(invalid="ignore"):
            self._half = np.where(bounded, (high - low) / 2, 1).astype(np.float32)
            self._middle = np.where(bounded, (high + low) / 2, 0).astype(np.float32)
        self._low = np.where(bounded, low, -np.inf).astype(np.float32)
        self._high = np.where(bounded, high, np.inf).astype(np.float32)
        # Bounds of ±1 are the policy's own units.
        self._scales = bool((self._half != 1).any() or self._middle.any())
        self.seed(seed)

    def seed(self, seed: int | None) -> None:
        """Starts the noise anew; None draws a seed from the system."""
        self._seed = seed
        self._rng: np.random.Generator | None = None
        self._block: npt.NDArray[Any] = np.empty((0, self._size))
        self._next = 0

    @property
    def rng(self) -> np.random.Generator:
        """Where the noise comes from. Not safe for several threads at once."""
        # Made when it is first asked for: most policies are never sampled from.
        if self._rng is None:
            self._rng = np.random.default_rng(self._seed)
        return self._rng

    def draw(self, rng: np.random.Generator, count: int) -> npt.NDArray[Any]:
        """Noise for so many actions, [count, A], with the policy's standard deviation."""
        shape = (count, self._size)
        if not self._box:
            return rng.gumbel(size=shape)
        noise = rng.standard_normal(shape, np.float32)
        noise *= self._std
        return noise

    def draw_one(self) -> npt.NDArray[Any]:
        """Noise for one action, [A]. Not safe for several threads at once."""
        if self._next == len(self._block):
            self._block, self._next = self.draw(self.rng, _NOISE_BLOCK), 0
        noise: npt.NDArray[Any] = self._block[self._next]
        self._next += 1
        return noise

    def choose(self, parameters: npt.NDArray[np.float32], noise: npt.NDArray[Any]) -> tuple[Any, Any]:
        """The action in the environment's units, and in the policy's.

        Args:
            parameters: [..., A] mean, or logits.
            noise: [..., A], from `draw`.
        """
        if not self._box:
            # The Gumbel-max trick: argmax(logits + Gumbel noise) is a sample of softmax(logits).
            index = np.argmax(parameters + noise, axis=-1)
            return index + self._start, index
        action = parameters + noise
        return self.to_environment(action), action

    def to_environment(self, action: npt.NDArray[Any]) -> Any:
        """Actions in the policy's units, [..., A] or indices, in the environment's."""
        if not self._box:
            return action + self._start
        # Clipped last: rounding must not carry an action over the bound, which an environment may refuse.
        if self._scales:
            scaled = action * self._half
            scaled += self._middle
            np.maximum(scaled, self._low, out=scaled)
        else:
            scaled = np.maximum(action, self._low)
        return np.minimum(scaled, self._high, out=scaled)

    def from_environment(self, action: npt.NDArray[Any]) -> Any:
        """The reverse of `to_environment`, where nothing was clipped."""
        return (action - self._middle) / self._half if self._box else action - self._start

    def clipped(self, action: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Which of the actions in the environment's units lie on a bound: what the policy chose is beyond it."""
        if not self._box:
            return np.zeros(np.shape(action), np.bool_)
        outside: npt.NDArray[np.bool_] = (action <= self._low) | (action >= self._high)
        return outside
