"""A policy's graph, bound to arrays for batches of one size."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime

from thetaprime import wire
from thetaprime.client._errors import InvalidInputError


class BoundGraph:
    """Runs a policy's graph on batches of one size: for a few observations a third faster than `InferenceSession.run`.

    Not safe for several threads at once.

    Args:
        session: the graph, of any batch size.
        contract: what its environment sends and takes.
        count: B, the batch's size.

    Attributes:
        count: B.
        actions: of the last run: [B, A] float32, or [B] int64 for discrete actions, in the environment's units.
        parameters: [B, A] float32: the last run's means in the policy's units, or logits.
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
        # On the CPU an OrtValue shares the array's memory; the golden vectors would show it if it did not.
        self._binding.bind_ortvalue_input("obs", value(self._obs))
        self._binding.bind_ortvalue_output("actions", value(self.actions))
        self._binding.bind_ortvalue_output("mean" if box else "logits", value(self.parameters))
        self._run = session.run_with_iobinding

    def run(self, obs: npt.NDArray[Any]) -> None:
        """Gives `actions` and `parameters` for a batch.

        Args:
            obs: [B, *observation_shape] numbers, or those of one observation where B is 1.

        Raises:
            InvalidInputError: a wrong dtype, or a number that is not finite.
        """
        check_dtype(obs)
        self._shaped_obs[...] = obs
        np.isfinite(self._obs, self._finite)
        if self._finite.tobytes() != self._all_finite:  # three times as fast as all()
            check_finite(obs)
        self._run(self._binding)


def check_dtype(obs: npt.NDArray[Any]) -> None:
    """Refuses what holds no real numbers.

    Raises:
        InvalidInputError: it does not.
    """
    if obs.dtype.kind not in "fiub":
        raise InvalidInputError.at("obs", f"dtype {obs.dtype}; expected real numbers")


def check_finite(obs: npt.NDArray[Any]) -> None:
    """Refuses what is not finite, as float32.

    Raises:
        InvalidInputError: a number is not; it says which is the first.
    """
    with np.errstate(over="ignore"):
        finite = np.isfinite(obs.astype(np.float32))
    if not finite.all():
        index = "".join(f"[{i}]" for i in np.argwhere(~finite)[0])
        raise InvalidInputError.at(f"obs{index}", "not a finite float32; a policy cannot act on it")
