"""Replaces the policy of a running control loop without a pause."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

import numpy.typing as npt

from thetaprime.client._errors import InvalidInputError, PolicyVerificationError
from thetaprime.client._policy.adapted_policy import AdaptedPolicy

PolicySource: TypeAlias = "AdaptedPolicy | bytes | str | os.PathLike[str]"
"""A policy, an ONNX file's bytes, or its path."""


class PolicyRunner:
    """Acts for a control loop, and replaces its policy while the loop runs.

    The loop calls `act`. Another thread calls `replace`: the runner's own thread loads and verifies the new policy,
    which acts from the loop's next call on. The runner's thread also releases the old policy.

    Args:
        policy: the first policy. It belongs to the runner from now on.

    Examples:
        >>> with tp.PolicyRunner(client.theta("half-cheetah-direction")) as runner:
        ...     loaded = runner.replace("policy.onnx")  # returns at once
        ...     action = runner.act(observation)
    """

    def __init__(self, policy: AdaptedPolicy) -> None:
        self._policy = policy
        self._next: AdaptedPolicy | None = None
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
        return self._next or self._policy

    def act(self, obs: npt.ArrayLike, deterministic: bool = True) -> Any:
        """Returns the current policy's action, as `AdaptedPolicy.act`.

        Raises:
            InvalidInputError: as `AdaptedPolicy.act`.
        """
        if self._next is not None:
            self._take_over()
        return self._policy.act(obs, deterministic)

    def predict(
        self,
        observation: npt.ArrayLike,
        state: Any = None,
        episode_start: npt.ArrayLike | None = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        """Returns the current policy's action, as `AdaptedPolicy.predict`."""
        return self.act(observation, deterministic), state

    def replace(self, policy: PolicySource, sha256: str | None = None) -> "Future[AdaptedPolicy]":
        """Loads another policy, which acts from the first call of `act` after its verification.

        Returns at once. The last of several replacements acts.

        Args:
            policy: a policy, an ONNX file's bytes, or its path.
            sha256: the expected SHA-256 (hex) of the file; None skips the check.

        Returns:
            A future of the verified policy. If the policy is refused, the old policy continues to act, and the future
            raises `PolicyVerificationError` (damaged, not a ThetaPrime policy, failed golden vectors, another
            environment) or `OSError` (the file cannot be read).

        Raises:
            InvalidInputError: the runner is closed.
        """
        loaded: Future[AdaptedPolicy] = Future()

        def load() -> None:
            if not loaded.set_running_or_notify_cancel():
                return
            try:
                self._offer(_load(policy, sha256))
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

    def _offer(self, policy: AdaptedPolicy) -> None:
        if policy.contract != self._contract:
            raise PolicyVerificationError(f"the policy has environment {policy.contract}; expected {self._contract}")
        with self._lock:
            self._next = policy

    def _take_over(self) -> None:
        with self._lock:
            if self._next is not None:
                retired = [self._policy]
                self._policy, self._next = self._next, None
                self._work.put(retired)


def _load(policy: PolicySource, sha256: str | None) -> AdaptedPolicy:
    if isinstance(policy, AdaptedPolicy):
        if sha256 is not None and policy.sha256 != sha256:
            raise PolicyVerificationError(f"sha256 of the policy is {policy.sha256}; expected {sha256}")
        return policy
    if isinstance(policy, bytes):
        return AdaptedPolicy(policy, sha256=sha256)
    return AdaptedPolicy.load(policy, sha256)
