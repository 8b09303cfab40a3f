"""Runs a verified ONNX policy on onnxruntime."""

import os
import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from thetaprime import wire
from thetaprime.client._errors import InvalidInputError, PolicyVerificationError
from thetaprime.client._policy.atomic_file import write_atomically
from thetaprime.client._policy.contract import (
    Golden,
    PolicyContract,
    check_digest,
    check_file,
    check_golden,
    check_signature,
    golden_from_arrays,
    open_session,
    read_golden,
    read_log_std,
    read_policy_contract,
    runtime_errors,
)
from thetaprime.client._policy.inference import BoundGraph, Exploration, check_dtype, check_finite
from thetaprime.client._policy.regular_file import read_policy_file
from thetaprime.v1 import policy_pb2

# Larger batches gain nothing from a bound graph, whose lock would delay other threads.
_MAX_BOUND_COUNT: Final = 64


class AdaptedPolicy:
    """A policy (θ, or θ′ after adaptation) that acts locally, in microseconds.

    The constructor checks the file's digest and golden vectors. Thread-safe.

    Args:
        onnx: the ONNX file's bytes.
        sha256: the expected SHA-256 (hex); None skips the check.
        seed: seed of stochastic actions; None draws a seed from the system.

    Raises:
        PolicyVerificationError: the file is damaged, not a ThetaPrime policy, exceeds a limit, or fails its golden
            vectors.
    """

    def __init__(self, onnx: bytes, *, sha256: str | None = None, seed: int | None = None) -> None:
        if sha256 is not None:
            check_digest(onnx, sha256)
        self._onnx = onnx
        file = check_file(onnx)
        self._policy_contract: PolicyContract = read_policy_contract(file.metadata)
        contract = self._policy_contract.environment
        golden = read_golden(file, contract)
        self._max_golden_vectors = file.max_golden_vectors
        self._session = open_session(onnx)
        check_signature(self._session, contract)
        self._shape, self._size = contract.observation_shape, contract.observation_size
        self._box = contract.action_kind is wire.ActionKind.BOX
        self._one = BoundGraph(self._session, contract, 1)
        self._several: BoundGraph | None = None
        self._last_count = 0
        self._exploration = Exploration(contract, read_log_std(self._session, contract), seed)
        self._lock = threading.Lock()
        self._verify(golden)

    @classmethod
    def load(cls, path: str | os.PathLike[str], sha256: str | None = None, *, seed: int | None = None) -> Self:
        """Loads a file in the default profile, as `save` and ``thetaprime export`` write.

        Args:
            path: the file.
            sha256: the expected SHA-256 (hex); None skips the check.
            seed: seed of stochastic actions.

        Raises:
            PolicyVerificationError: as the constructor.
            OSError: the file cannot be read.
        """
        data = read_policy_file(path)
        try:
            return cls(data, sha256=sha256, seed=seed)
        except PolicyVerificationError as error:
            raise PolicyVerificationError(f"{os.fspath(path)}: {error}") from error

    @classmethod
    def from_message(cls, message: policy_pb2.Policy, *, seed: int | None = None) -> Self:
        """Loads the policy of a server's reply, and compares the file with every field of the reply.

        Raises:
            PolicyVerificationError: the reply and the file differ, or as the constructor.
        """
        policy = cls(message.onnx, sha256=message.onnx_sha256, seed=seed)
        for name, expected, found in (
            ("policy_id", message.policy_id, policy.policy_id),
            ("parent_id", message.parent_id, policy.parent_id),
            ("metadata", dict(message.metadata), dict(policy.metadata)),
        ):
            if expected != found:
                raise PolicyVerificationError(f"the reply has {name} {expected!r}; its file has {found!r}")
        try:
            observations = wire.array_from_message(message.golden.observations, "golden.observations")
            actions = wire.array_from_message(message.golden.actions, "golden.actions")
        except wire.WireError as error:
            raise PolicyVerificationError(f"the reply's golden vectors are malformed: {error}") from error
        policy._verify(golden_from_arrays(observations, actions, policy.contract, policy._max_golden_vectors))
        return policy

    @property
    def policy_id(self) -> str:
        """SHA-256 (hex) of the policy's parameters."""
        return self._policy_contract.policy_id

    @property
    def parent_id(self) -> str:
        """`policy_id` of the policy it was adapted from; empty for θ."""
        return self._policy_contract.parent_id

    @property
    def meta_policy(self) -> str:
        """``name@version`` of its meta-policy."""
        return self._policy_contract.meta_policy

    @property
    def contract(self) -> wire.EnvironmentContract:
        """The contract of its environment: observations, actions, horizon."""
        return self._policy_contract.environment

    @property
    def metadata(self) -> Mapping[str, str]:
        """The file's metadata."""
        return MappingProxyType(self._session.get_modelmeta().custom_metadata_map)

    @property
    def onnx(self) -> bytes:
        """The ONNX file's bytes."""
        return self._onnx

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of the ONNX file, as `load` takes it."""
        return wire.sha256_hex(self.onnx)

    def __repr__(self) -> str:
        return f"AdaptedPolicy({self.meta_policy}, policy_id={self.policy_id[:12]}…)"

    def seed(self, seed: int | None) -> None:
        """Restarts the noise of stochastic actions; None draws a seed from the system."""
        with self._lock:
            self._exploration.seed(seed)

    def act(self, obs: npt.ArrayLike, deterministic: bool = True) -> Any:
        """Returns the action for one observation or a batch, in the environment's units.

        Args:
            obs: [*observation_shape] or [B, *observation_shape], raw, as the environment returns them.
            deterministic: True returns the distribution's mode; False samples.

        Returns:
            Box actions: float32 [A] or [B, A]. Discrete actions: an int64 scalar or [B].

        Raises:
            InvalidInputError: the shape or dtype is wrong, or a number is not finite.
        """
        if not deterministic:
            return self.sample(obs)[0]
        array = obs if isinstance(obs, np.ndarray) else np.asarray(obs)
        if array.shape == self._shape:
            with self._lock:
                one = self._one
                one.run(array)
                action = one.actions[0]
                return action.copy() if self._box else action
        with self._lock:
            if graph := self._bound(array):
                graph.run(array)
                return graph.actions.copy()
        return self._session.run(["actions"], {"obs": self._batch(array)})[0]

    def predict(
        self,
        observation: npt.ArrayLike,
        state: Any = None,
        episode_start: npt.ArrayLike | None = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        """Calls `act` with the name and signature of Stable-Baselines3, which evaluation code of other libraries uses.

        Args:
            observation: as in `act`.
            state: returned unchanged: the policy has no memory.
            episode_start: ignored: the policy has no memory.
            deterministic: as in `act`.

        Returns:
            The action, as in `act`, and `state`.

        Raises:
            InvalidInputError: as `act`.
        """
        return self.act(observation, deterministic), state

    def sample(self, obs: npt.ArrayLike, *, rng: np.random.Generator | None = None) -> tuple[Any, Any]:
        """Samples an action for one observation or a batch.

        Args:
            obs: as in `act`.
            rng: generator of the noise; None uses the policy's generator.

        Returns:
            The action in the environment's units, as in `act`, and the action in the policy's units, which a
            `Trajectory` records. Box: float32 [A] or [B, A], before scaling and clipping. Discrete: the index,
            counted from 0.

        Raises:
            InvalidInputError: as `act`.
        """
        exploration = self._exploration
        array = obs if isinstance(obs, np.ndarray) else np.asarray(obs)
        if array.shape == self._shape:
            with self._lock:
                noise = exploration.draw_one() if rng is None else exploration.draw(rng, 1)[0]
                self._one.run(array)
                return exploration.choose(self._one.parameters[0], noise)
        with self._lock:
            if graph := self._bound(array):
                noise = exploration.draw(exploration.rng if rng is None else rng, graph.count)
                graph.run(array)
                return exploration.choose(graph.parameters, noise)
        batch = self._batch(array)
        with self._lock:
            noise = exploration.draw(exploration.rng if rng is None else rng, len(batch))
        parameters = self._session.run(["mean" if self._box else "logits"], {"obs": batch})[0]
        return exploration.choose(parameters, noise)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the ONNX file atomically.

        Raises:
            OSError: the file cannot be written.
        """
        write_atomically(path, self.onnx)

    def _verify(self, golden: Golden) -> None:
        """Checks the golden vectors one by one and as a batch, which run different code."""
        with runtime_errors("the golden observations do not fit the graph"):
            batch = self.act(golden.observations)
            single = np.stack([self.act(obs) for obs in golden.observations])
        check_golden("as a batch", batch, golden.actions)
        check_golden("one by one", single, golden.actions)

    def _bound(self, obs: npt.NDArray[Any]) -> BoundGraph | None:
        """Returns the graph bound to a batch's size; None until two batches in a row have the size."""
        count = obs.shape[0] if obs.shape[1:] == self._shape and obs.ndim == len(self._shape) + 1 else 0
        if not 0 < count <= _MAX_BOUND_COUNT:
            return None
        if self._several is None or self._several.count != count:
            previous, self._last_count = self._last_count, count
            if previous != count:
                return None
            self._several = BoundGraph(self._session, self._policy_contract.environment, count)
        return self._several

    def _batch(self, obs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        if obs.ndim != len(self._shape) + 1 or obs.shape[1:] != self._shape:
            expected = list(self._shape)
            raise InvalidInputError.at(
                "obs", f"shape {list(obs.shape)}; expected {expected} or {['B', *expected]}".replace("'", "")
            )
        check_dtype(obs)
        batch = np.ascontiguousarray(obs, dtype=np.float32)
        if b"\0" in np.isfinite(batch).tobytes():  # faster than all()
            check_finite(batch)
        return batch.reshape(len(batch), self._size)
