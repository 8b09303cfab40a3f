"""Replaces the policy of a running control loop without a pause."""

import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Self, TypeAlias

import numpy.typing as npt

from thetaprime.client._errors import InvalidInputError, PolicyVerificationError
from thetaprime.client._policy.adapted_policy import AdaptedPolicy
from thetaprime.client._policy.hand_over import PolicySwap, hand_over, why_not_carried
from thetaprime.client._policy.policy_state import PolicyState

Memory: TypeAlias = Literal["carry", "reset", "must-carry"]
PolicySource: TypeAlias = "AdaptedPolicy | bytes | str | os.PathLike[str]"
"""A policy, an ONNX file's bytes, or its path."""


class _Replacement(NamedTuple):
    policy: AdaptedPolicy
    memory: Memory


class PolicyRunner:
    """Acts for a control loop, and replaces its policy while the loop runs.

    The loop calls `act`. Another thread calls `replace`: the runner's own thread loads and verifies the new policy,
    which acts from the loop's next call on. The runner's thread also releases the old policy.

    With a memory, the loop also calls `observe` and `reset`, as on the policy itself. A replacement takes over what the
    old policy remembers if both are policies of one meta-policy: θ and its θ′. Otherwise the new policy begins new
    lifetimes. `swap` says what became of the memory.

    Args:
        policy: the first policy. It belongs to the runner from now on.

    Examples:
        >>> with tp.PolicyRunner(client.theta("half-cheetah-direction")) as runner:
        ...     loaded = runner.replace("policy.onnx")  # returns at once
        ...     action = runner.act(observation)
    """

    def __init__(self, policy: AdaptedPolicy) -> None:
        self._policy = policy
        self._next: _Replacement | None = None
        self._swap: PolicySwap | None = None
        self._contract: Final = policy.contract
        self._lock: Final = threading.Lock()
        self._work: Final[SimpleQueue[Callable[[], None] | list[AdaptedPolicy] | None]] = SimpleQueue()
        self._closed = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"PolicyRunner({self.policy!r})"

    @property
    def policy(self) -> AdaptedPolicy:
        """The policy of the next call of `act`."""
        following = self._next
        return self._policy if following is None else following.policy

    @property
    def swap(self) -> PolicySwap | None:
        """The last replacement that acts, and what became of the memory; None before the first one."""
        return self._swap

    def act(self, obs: npt.ArrayLike, deterministic: bool = True) -> Any:
        """Returns the current policy's action, as `AdaptedPolicy.act`.

        Raises:
            InvalidInputError: as `AdaptedPolicy.act`.
        """
        if self._next is not None:
            self._take_over()
        return self._policy.act(obs, deterministic)

    def observe(
        self,
        reward: npt.ArrayLike,
        terminated: npt.ArrayLike = False,
        truncated: npt.ArrayLike = False,
        *,
        action: npt.ArrayLike | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        """Tells the policy that acted the outcome of its action, as `AdaptedPolicy.observe`."""
        self._policy.observe(reward, terminated, truncated, action=action, info=info)

    def reset(self, where: npt.ArrayLike | None = None) -> None:
        """Begins new lifetimes, as `AdaptedPolicy.reset`."""
        self._policy.reset(where)

    def predict(
        self,
        observation: npt.ArrayLike,
        state: Any = None,
        episode_start: npt.ArrayLike | None = None,
        deterministic: bool = True,
        *,
        reward: npt.ArrayLike | None = None,
    ) -> tuple[Any, Any]:
        """Returns the current policy's action and the next state, as `AdaptedPolicy.predict`.

        A state of the policy before the last replacement is carried to the current policy, or refused.

        Raises:
            InvalidInputError: as `AdaptedPolicy.predict` and `AdaptedPolicy.carry`.
        """
        if self._next is not None:
            self._take_over()
        policy = self._policy
        if policy.memory is not None and isinstance(state, PolicyState) and state.policy_id != policy.policy_id:
            state = policy.carry(state)
        return policy.predict(observation, state, episode_start, deterministic, reward=reward)

    def replace(
        self, policy: PolicySource, sha256: str | None = None, *, memory: Memory = "carry"
    ) -> "Future[AdaptedPolicy]":
        """Loads another policy, which acts from the first call of `act` after its verification.

        Returns at once. The last of several replacements acts.

        Args:
            policy: a policy, an ONNX file's bytes, or its path.
            sha256: the expected SHA-256 (hex) of the file; None skips the check.
            memory: ``carry`` hands over what the old policy remembers where both are policies of one meta-policy;
                ``reset`` begins new lifetimes; ``must-carry`` refuses a policy that cannot take the memory over.

        Returns:
            A future of the verified policy. If the policy is refused, the old policy continues to act, and the future
            raises `PolicyVerificationError` (damaged, not a ThetaPrime policy, failed golden vectors, another
            environment, or a memory that it cannot take over) or `OSError` (the file cannot be read).

        Raises:
            InvalidInputError: the runner is closed, or `memory` is another word.
        """
        if memory not in ("carry", "reset", "must-carry"):
            raise InvalidInputError.at("memory", f"{memory!r}; expected 'carry', 'reset' or 'must-carry'")
        loaded: Future[AdaptedPolicy] = Future()

        def load() -> None:
            if not loaded.set_running_or_notify_cancel():
                return
            try:
                self._offer(_Replacement(_load(policy, sha256), memory))
            except BaseException as error:
                loaded.set_exception(error)
            else:
                loaded.set_result(self.policy)

        with self._lock:
            if self._closed:
                raise InvalidInputError("the runner is closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="thetaprime-policy-runner", daemon=True)
                self._thread.start()
            self._work.put(load)
        return loaded

    def close(self) -> None:
        """Finishes pending replacements and ends the runner's thread. `act` continues with the last policy."""
        with self._lock:
            self._closed, thread = True, self._thread
            self._work.put(None)
        if thread is not None:
            thread.join()

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            if callable(work):
                work()
            else:
                # Freeing a session takes too long for the control loop, which may still hold the list.
                work.clear()
            del work

    def _offer(self, replacement: _Replacement) -> None:
        policy = replacement.policy
        if policy.contract != self._contract:
            raise PolicyVerificationError(f"the policy has environment {policy.contract}; expected {self._contract}")
        with self._lock:
            if replacement.memory == "must-carry" and (problem := why_not_carried(self._policy, policy)):
                raise PolicyVerificationError(f"the policy cannot take over the memory: {problem}")
            self._next = replacement

    def _take_over(self) -> None:
        with self._lock:
            if self._next is not None:
                retired, policy = [self._policy], self._next.policy
                self._swap = hand_over(self._policy, policy, reset=self._next.memory == "reset")
                self._policy, self._next = policy, None
                self._work.put(retired)


def _load(policy: PolicySource, sha256: str | None) -> AdaptedPolicy:
    if isinstance(policy, AdaptedPolicy):
        if sha256 is not None and policy.sha256 != sha256:
            raise PolicyVerificationError(f"sha256 of the policy is {policy.sha256}; expected {sha256}")
        return policy
    if isinstance(policy, bytes):
        return AdaptedPolicy(policy, sha256=sha256)
    return AdaptedPolicy.load(policy, sha256)
