"""Acting with one policy after another, without a pause between them."""

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
    """Acts for a control loop, and takes new policies while it does.

    The loop calls `act`. Another thread calls `replace`: the new policy is read, verified and tried on a thread of the
    runner's, and acts from the loop's next call on. The old one is released, on that thread too, after its last call.

    Args:
        policy: acts first. It may have been replaced before, and belongs to the runner from now on.

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
        """The policy that the next call of `act` acts with."""
        return self._next or self._policy

    def act(self, obs: npt.ArrayLike, deterministic: bool = True) -> Any:
        """The current policy's action, as `AdaptedPolicy.act`.

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
        """As `AdaptedPolicy.predict`, with the current policy."""
        return self.act(observation, deterministic), state

    def replace(self, policy: PolicySource, sha256: str | None = None) -> "Future[AdaptedPolicy]":
        """Has another policy act, from the first call of `act` after it was verified.

        Returns at once. Of several replacements the last one acts.

        Args:
            policy: a policy, an ONNX file's bytes, or its path.
            sha256: the file's SHA-256 (hex), where it is known.

        Returns:
            The policy, once it is verified. Where it is refused, the old one goes on, and the future has the error:
            `PolicyVerificationError` (damaged, no ThetaPrime policy, golden vectors that fail, another environment),
            or `OSError` (the file cannot be read).

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
        """Ends the runner's thread, once replacements under way are done. `act` goes on with the last policy."""
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
                # To free a session takes too long for a control loop, which may still hold the list.
                work.clear()
            del work

    def _offer(self, policy: AdaptedPolicy) -> None:
        if policy.contract != self._contract:
            raise PolicyVerificationError(
                f"the policy is for another environment: {policy.contract}; the runner's is {self._contract}"
            )
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
