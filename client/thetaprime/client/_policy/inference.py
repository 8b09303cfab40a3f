"""Runs a policy's graph, and samples actions from the distribution that the graph outputs.

Sampling is outside the graph: an in-graph generator repeats its noise in every new session.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime

from thetaprime import wire
from thetaprime.client._errors import InvalidInputError

# One draw costs as much as the network, so noise is drawn for this many actions at a time.
_NOISE_BLOCK: Final = 256


class BoundGraph:
    """Runs a graph on batches of one size, a third faster than `InferenceSession.run` for a few observations.

    Not thread-safe.

    Args:
        session: the graph's session, with a symbolic batch dimension.
        contract: the environment's contract.
        count: B, the batch size.

    Attributes:
        count: B.
        actions: actions of the last run in the environment's units: [B, A] float32, or [B] int64 for discrete actions.
        parameters: [B, A] float32: means in the policy's units, or logits, of the last run.
    """

    def __init__(self, session: onnxruntime.InferenceSession, contract: wire.EnvironmentContract, count: int) -> None:
        box = contract.action_kind is wire.ActionKind.BOX
        size = contract.action_size
        self.count: Final = count
        self.actions: npt.NDArray[Any] = np.zeros((count, size), np.float32) if box else np.zeros(count, np.int64)
        self.parameters: npt.NDArray[np.float32] = np.zeros((count, size), np.float32)
        self._obs = np.zeros((count, contract.observation_size), np.float32)
        self._shaped_obs = self._obs.reshape(count, *contract.observation_shape)
        self._finite = np.ones(self._obs.shape, np.bool_)
        self._all_finite = self._finite.tobytes()
        self._binding = session.io_binding()
        value = onnxruntime.OrtValue.ortvalue_from_numpy
        # On the CPU an OrtValue shares the array's memory. If it did not, the golden vectors would fail.
        self._binding.bind_ortvalue_input("obs", value(self._obs))
        self._binding.bind_ortvalue_output("actions", value(self.actions))
        self._binding.bind_ortvalue_output("mean" if box else "logits", value(self.parameters))
        self._run = session.run_with_iobinding

    def run(self, obs: npt.NDArray[Any]) -> None:
        """Computes `actions` and `parameters` for a batch.

        Args:
            obs: [B, *observation_shape], or [*observation_shape] where B is 1.

        Raises:
            InvalidInputError: the dtype is not real, or a number is not finite.
        """
        check_dtype(obs)
        self._shaped_obs[...] = obs
        np.isfinite(self._obs, self._finite)
        if self._finite.tobytes() != self._all_finite:  # three times as fast as all()
            check_finite(obs)
        self._run(self._binding)


def check_dtype(obs: npt.NDArray[Any]) -> None:
    """Refuses an array whose dtype is not real.

    Raises:
        InvalidInputError: the dtype is complex, or not numeric.
    """
    if obs.dtype.kind not in "fiub":
        raise InvalidInputError.at("obs", f"dtype {obs.dtype}; expected real numbers")


def check_finite(obs: npt.NDArray[Any]) -> None:
    """Refuses an array with a number that is not finite in float32.

    Raises:
        InvalidInputError: a number is not finite; the error names the first.
    """
    with np.errstate(over="ignore"):
        finite = np.isfinite(obs.astype(np.float32))
    if not finite.all():
        index = "".join(f"[{i}]" for i in np.argwhere(~finite)[0])
        raise InvalidInputError.at(f"obs{index}", "not a finite float32; expected finite numbers")


class Exploration:
    """Samples actions, and converts them between the policy's and the environment's units.

    Args:
        contract: the environment's contract.
        log_std: [A] log standard deviations in the policy's units; empty for discrete actions.
        seed: seed of the noise; None draws a seed from the system.
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
        # A dimension without both bounds is neither scaled nor clipped.
        bounded = np.isfinite(low) & np.isfinite(high)
        with np.errstate(invalid="ignore"):
            self._half = np.where(bounded, (high - low) / 2, 1).astype(np.float32)
            self._middle = np.where(bounded, (high + low) / 2, 0).astype(np.float32)
        self._low = np.where(bounded, low, -np.inf).astype(np.float32)
        self._high = np.where(bounded, high, np.inf).astype(np.float32)
        # Bounds of ±1 are the policy's units.
        self._scales = bool((self._half != 1).any() or self._middle.any())
        self.seed(seed)

    def seed(self, seed: int | None) -> None:
        """Restarts the noise; None draws a seed from the system."""
        self._seed = seed
        self._rng: np.random.Generator | None = None
        self._block: npt.NDArray[Any] = np.empty((0, self._size))
        self._next = 0

    @property
    def rng(self) -> np.random.Generator:
        """The generator of the noise. Not thread-safe."""
        # Lazy: most policies are never sampled from.
        if self._rng is None:
            self._rng = np.random.default_rng(self._seed)
        return self._rng

    def draw(self, rng: np.random.Generator, count: int) -> npt.NDArray[Any]:
        """Returns noise for `count` actions, [count, A], with the policy's standard deviation."""
        shape = (count, self._size)
        if not self._box:
            return rng.gumbel(size=shape)
        noise = rng.standard_normal(shape, np.float32)
        noise *= self._std
        return noise

    def draw_one(self) -> npt.NDArray[Any]:
        """Returns noise for one action, [A]. Not thread-safe."""
        if self._next == len(self._block):
            self._block, self._next = self.draw(self.rng, _NOISE_BLOCK), 0
        noise: npt.NDArray[Any] = self._block[self._next]
        self._next += 1
        return noise

    def choose(self, parameters: npt.NDArray[np.float32], noise: npt.NDArray[Any]) -> tuple[Any, Any]:
        """Returns the action in the environment's units, and in the policy's units.

        Args:
            parameters: [..., A] means, or logits.
            noise: [..., A], from `draw`.
        """
        if not self._box:
            # The Gumbel-max trick: argmax(logits + Gumbel noise) is a sample of softmax(logits).
            index = np.argmax(parameters + noise, axis=-1)
            return index + self._start, index
        action = parameters + noise
        return self.to_environment(action), action

    def to_environment(self, action: npt.NDArray[Any]) -> Any:
        """Converts actions from the policy's units ([..., A], or indices) to the environment's."""
        if not self._box:
            return action + self._start
        # Clipped last: rounding must not move an action past its bound, which environments may refuse.
        if self._scales:
            scaled = action * self._half
            scaled += self._middle
            np.maximum(scaled, self._low, out=scaled)
        else:
            scaled = np.maximum(action, self._low)
        return np.minimum(scaled, self._high, out=scaled)

    def from_environment(self, action: npt.NDArray[Any]) -> Any:
        """Inverts `to_environment` for actions that were not clipped."""
        return (action - self._middle) / self._half if self._box else action - self._start

    def clipped(self, action: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Marks actions in the environment's units that lie on a bound: clipping may have changed them."""
        if not self._box:
            return np.zeros(np.shape(action), np.bool_)
        outside: npt.NDArray[np.bool_] = (action <= self._low) | (action >= self._high)
        return outside
