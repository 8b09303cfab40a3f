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
from thetaprime.client._policy.memory import MemoryGraph
from thetaprime.client._policy.memory_contract import (
    MemoryContract,
    check_initial,
    check_start,
    check_state_tensors,
    memory_inputs,
    read_memory,
    read_sequences,
)
from thetaprime.client._policy.policy_state import PolicyState
from thetaprime.client._policy.regular_file import read_policy_file
from thetaprime.client._policy.remembering import Remembering
from thetaprime.v1 import policy_pb2

# Larger batches gain nothing from a bound graph, whose lock would delay other threads.
_MAX_BOUND_COUNT: Final = 64


class AdaptedPolicy:
    """A policy (θ, or θ′ after adaptation) that acts locally, in microseconds.

    The constructor checks the file's digest and golden vectors. Thread-safe.

    A policy with a memory (`memory`) adapts while it acts: from the rewards of its own actions. It keeps the state of
    each robot from action to action. Tell it the outcome of each action with `observe`, and call `reset` where the
    robot or its task may have changed, and not at the end of an episode. One object remembers the robots of one control
    loop; `predict` keeps the state in the caller's hands. Without a memory, `observe` and `reset` do nothing.

    Args:
        onnx: the ONNX file's bytes.
        sha256: the expected SHA-256 (hex); None skips the check.
        seed: seed of stochastic actions; None draws a seed from the system.
        strict: whether a forgotten reset of the memory is an error; otherwise the first one is a `MemoryWarning`.

    Examples:
        >>> policy.reset()  # a new robot, or a new task
        >>> for _ in range(episodes):
        ...     observation, _ = env.reset()
        ...     terminated = truncated = False
        ...     while not (terminated or truncated):
        ...         action = policy.act(observation)
        ...         observation, reward, terminated, truncated, info = env.step(action)
        ...         policy.observe(reward, terminated, truncated, info=info)

    Raises:
        PolicyVerificationError: the file is damaged, not a ThetaPrime policy, exceeds a limit, or fails its golden
            vectors.
    """

    def __init__(
        self, onnx: bytes, *, sha256: str | None = None, seed: int | None = None, strict: bool = False
    ) -> None:
        if sha256 is not None:
            check_digest(onnx, sha256)
        self._onnx = onnx
        file = check_file(onnx)
        self._policy_contract: PolicyContract = read_policy_contract(file.metadata)
        contract = self._policy_contract.environment
        self._max_golden_vectors = file.max_golden_vectors
        self._shape, self._size = contract.observation_shape, contract.observation_size
        self._box = contract.action_kind is wire.ActionKind.BOX
        self._lock = threading.Lock()
        self._memory: MemoryContract | None = None
        self._remembering: Remembering | None = None
        if self._policy_contract.has_memory:
            self._open_memory(file, seed, strict)
            return
        golden = read_golden(file, contract)
        self._session = open_session(onnx)
        check_signature(self._session, contract)
        self._one = BoundGraph(self._session, contract, 1)
        self._several: BoundGraph | None = None
        self._last_count = 0
        self._exploration = Exploration(contract, read_log_std(self._session, contract), seed)
        self._verify(golden)

    def _open_memory(self, file: wire.OnnxFile, seed: int | None, strict: bool) -> None:
        contract = self._policy_contract.environment
        self._memory = memory = read_memory(file.metadata)
        golden, start = read_sequences(file), check_start(memory, contract)
        self._session = session = open_session(self._onnx, keeps_buffers=True)
        check_signature(session, contract, memory_inputs(memory, contract))
        check_state_tensors(session, memory)
        graph = MemoryGraph(session, contract, memory, start, self.policy_id, self.meta_policy)
        one = {name: value[None] for name, value in start.items()}
        one |= {each.input: graph.initial(each, 1) for each in memory.states}
        check_initial(session, memory, {"obs": np.zeros((1, self._size), np.float32), **one})
        self._exploration = Exploration(contract, read_log_std(session, contract, one), seed)
        self._remembering = Remembering(graph, self._exploration, strict=strict)
        self._remembering.verify(golden)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        sha256: str | None = None,
        *,
        seed: int | None = None,
        strict: bool = False,
    ) -> Self:
        """Loads a file in the default profile, as `save` and ``thetaprime export`` write.

        Args:
            path: the file.
            sha256: the expected SHA-256 (hex); None skips the check.
            seed: seed of stochastic actions.
            strict: as the constructor's.

        Raises:
            PolicyVerificationError: as the constructor.
            OSError: the file cannot be read.
        """
        data = read_policy_file(path)
        try:
            return cls(data, sha256=sha256, seed=seed, strict=strict)
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
    def memory(self) -> MemoryContract | None:
        """The policy's memory, as its file describes it; None for a policy without a memory."""
        return self._memory

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
            InvalidInputError: the shape or dtype is wrong, or a number is not finite. With a memory: the outcome of the
                last action is unknown, or the observations are of another number of robots than before.
        """
        if not deterministic:
            return self.sample(obs)[0]
        array = obs if isinstance(obs, np.ndarray) else np.asarray(obs)
        if self._remembering is not None:
            with self._lock:
                return self._remembering.act(array)
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

    def observe(
        self,
        reward: npt.ArrayLike,
        terminated: npt.ArrayLike = False,
        truncated: npt.ArrayLike = False,
        *,
        action: npt.ArrayLike | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        """Tells the memory the outcome of the last action, after each step of the environment.

        Does nothing for a policy without a memory, and for robots that were reset since they acted.

        Args:
            reward: the reward, or [B].
            terminated: whether the episode ended in a terminal state, or [B].
            truncated: whether the episode was cut short, or [B].
            action: the action that the robot took in place of the policy's, in the environment's units.
            info: of the step, as the environment gives it. ``info["new_task"]`` says that the next observation is of
                another task: a memory that is not reset before the next action was forgotten.

        Raises:
            InvalidInputError: an argument has another shape or dtype, or is not finite; the outcome is known already;
                in strict mode, an episode has more steps than the horizon of `contract`.
        """
        if self._remembering is not None:
            with self._lock:
                self._remembering.observe(reward, terminated, truncated, action, info)

    def reset(self, where: npt.ArrayLike | None = None) -> None:
        """Begins a new lifetime: the policy forgets. Call it where the robot or its task may have changed.

        Does nothing for a policy without a memory.

        Args:
            where: the robots that begin: a mask [B], or a list of indices; None for all. After a reset of all robots,
                the next action may be for another number of robots.

        Raises:
            InvalidInputError: `where` has another shape or dtype.
        """
        if self._remembering is not None:
            with self._lock:
                self._remembering.reset(where)

    @property
    def state(self) -> PolicyState | None:
        """What the policy remembers, as a copy; None without a memory, and before the first action.

        Set it to go on with a state: of this policy, or from `carry`.
        """
        if self._remembering is None:
            return None
        with self._lock:
            return self._remembering.state

    @state.setter
    def state(self, state: PolicyState | None) -> None:
        with self._lock:
            self._need_memory("state").state = state

    def begin(self, count: int) -> PolicyState:
        """Returns the state of some robots at the start of their lifetimes, for `predict`.

        Raises:
            InvalidInputError: the policy has no memory.
        """
        return self._need_memory("state").graph.begin(count)

    def carry(self, state: PolicyState) -> PolicyState:
        """Brings the state of an earlier policy to this one: of θ to θ′, or of θ′ to the next.

        Args:
            state: of a policy of the same meta-policy.

        Returns:
            The state, for `predict` and `state` of this policy.

        Raises:
            InvalidInputError: the state is of another meta-policy, or of another shape.
        """
        return self._need_memory("state").graph.carry(state)

    def predict(
        self,
        observation: npt.ArrayLike,
        state: Any = None,
        episode_start: npt.ArrayLike | None = None,
        deterministic: bool = True,
        *,
        reward: npt.ArrayLike | None = None,
    ) -> tuple[Any, Any]:
        """Returns the action and the next state, with the name and signature of Stable-Baselines3.

        With a memory, the caller keeps the state: this object remembers nothing, and any thread may call. The policy
        also needs the rewards of the last actions, which Stable-Baselines3 does not pass: `reward`, or
        `PolicyState.observe` on the state.

        Args:
            observation: as in `act`.
            state: with a memory: None begins the lifetimes of all robots; otherwise the state that the last call
                returned, or `PolicyState.reset` of it. Without a memory: anything, and returned unchanged.
            episode_start: with a memory: whether the observation is the first of an episode, or [B]; the memory is
                kept. None where the state has observed it. Without a memory: ignored.
            deterministic: as in `act`.
            reward: with a memory: the reward of the last action, or [B].

        Returns:
            The action, as in `act`, and the state for the next call.

        Raises:
            InvalidInputError: as `act`. With a memory: the state is of another policy, shape or dtype, or a reward is
                missing.
        """
        if self._remembering is None:
            return self.act(observation, deterministic), state
        if not deterministic:
            action, _, following = self.sample_step(observation, state, episode_start, reward=reward)
            return action, following
        batch, single = self._as_batch(observation)
        actions, following = self._remembering.predict(batch, state, episode_start, reward)
        return actions[0] if single else actions, following

    def sample_step(
        self,
        obs: npt.ArrayLike,
        state: PolicyState | None,
        episode_start: npt.ArrayLike | None = None,
        *,
        reward: npt.ArrayLike | None = None,
        rng: np.random.Generator | None = None,
    ) -> tuple[Any, Any, PolicyState]:
        """Samples an action with a state that the caller keeps, as `predict` does.

        Args:
            obs: as in `act`.
            state: as `predict`'s.
            episode_start: as `predict`'s.
            reward: as `predict`'s.
            rng: generator of the noise; None uses the policy's generator.

        Returns:
            The action in the environment's and in the policy's units, as `sample`; and the state for the next call.

        Raises:
            InvalidInputError: the policy has no memory; otherwise as `predict`.
        """
        remembering = self._need_memory("state")
        batch, single = self._as_batch(obs)
        with self._lock:
            noise = self._exploration.draw(self._exploration.rng if rng is None else rng, len(batch))
        taken, recorded, following = remembering.sample_step(batch, state, episode_start, reward, noise)
        return (taken[0], recorded[0], following) if single else (taken, recorded, following)

    def _need_memory(self, field: str) -> Remembering:
        if self._remembering is None:
            raise InvalidInputError.at(field, f"{self.meta_policy} has no memory; expected a policy with one")
        return self._remembering

    def _as_batch(self, obs: npt.ArrayLike) -> tuple[npt.NDArray[np.float32], bool]:
        """The observations as a batch [B, O], and whether they are a single one."""
        array = np.asarray(obs)
        single = array.shape == self._shape
        return self._batch(array[None] if single else array), single

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
        if self._remembering is not None:
            with self._lock:
                return self._remembering.sample(array, rng)
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
        """Checks the golden vectors one by one and as a batch, which run different code.

        With a memory, they are the first actions of lifetimes.
        """
        act = self.act if self._remembering is None else lambda obs: self.predict(obs)[0]
        with runtime_errors("the golden observations do not fit the graph"):
            batch = act(golden.observations)
            single = np.stack([act(obs) for obs in golden.observations])
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
