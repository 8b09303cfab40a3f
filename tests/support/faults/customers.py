"""Clients that adapt while their server dies: each one's calls depend on its seed alone."""

import dataclasses
import random
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

import numpy as np

import thetaprime.client as tp
from tests.support.point_navigation import NAME, play
from thetaprime import wire

ROUNDS: Final = 2
UPLOADS: Final = 2
PATIENCE: Final = 600.0
"""Seconds that a customer repeats a call to a server that does not answer."""

_Result = TypeVar("_Result")
# Raised by a call to a server that was killed, is starting, or has a full disk. Every call is safe to repeat.
_TRANSIENT: Final = (tp.UnreachableError, tp.DeadlineError, tp.LimitError)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of one adaptation.

    Attributes:
        seed: of the customer.
        policies: SHA-256 of the ONNX file of θ_1, θ_2, … as received.
        lost: descriptions of the data that the server acknowledged and did not keep.
    """

    seed: int
    policies: tuple[str, ...]
    lost: tuple[str, ...]


def patiently(call: Callable[[], _Result], patience: float = PATIENCE) -> _Result:
    """Repeats a call while the server is away, and returns its result."""
    end = time.monotonic() + patience
    while True:
        try:
            return call()
        except _TRANSIENT:
            if time.monotonic() > end:
                raise
            time.sleep(random.uniform(0.02, 0.2))


def adapt_once(client: tp.Client, seed: int, ttl: float | None = None) -> Outcome:
    """Runs one session: uploads, steps, and a second reading of everything that the server acknowledged."""
    rng = np.random.default_rng(seed)
    session = patiently(lambda: client.create_session(NAME, request_id=f"customer-{seed}", ttl=ttl))
    lost: list[str] = []
    received: list[bytes] = []
    for _ in range(ROUNDS):
        digests = set()
        for _ in range(UPLOADS):
            trajectories = play(session.policy, rng)
            digests.add(patiently(lambda: session.upload(trajectories)).sha256)  # noqa: B023  # called at once
        batch = patiently(lambda: client.resume(session.id)).info.batch
        if batch.uploads != len(digests) or batch.sha256 != wire.batch_digest(sorted(digests)):
            lost.append(f"seed {seed}: {len(digests)} uploads acknowledged, {batch.uploads} kept")
        received.append(patiently(session.adapt).onnx)
    for index, onnx in enumerate(received, start=1):
        again = patiently(lambda: client.resume(session.id)).policy_at
        if patiently(lambda: again(index)).onnx != onnx:  # noqa: B023
            lost.append(f"seed {seed}: θ_{index} has changed")
    # A tenant may have only so many open sessions, and an hour has more.
    patiently(session.close)
    return Outcome(seed, tuple(wire.sha256_hex(onnx) for onnx in received), tuple(lost))


class Customers:
    """Threads that adapt, one session after another, for the duration of the context.

    Args:
        address: of the server.
        count: number of threads.
        expiring: whether one more thread creates sessions that expire at once, for the sweep to find.

    Attributes:
        outcomes: of all finished sessions.
        failures: exceptions that ended a thread.
    """

    def __init__(self, address: str, count: int, *, expiring: bool = False) -> None:
        self._client = tp.Client(address, timeout=10.0)
        self._stop_event = threading.Event()
        self._lock = threading.Lock()
        self._next = 0
        self.outcomes: list[Outcome] = []
        self.failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._adapt) for _ in range(count)]
        if expiring:
            self._threads.append(threading.Thread(target=self._let_expire))

    def __enter__(self) -> "Customers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_event.set()
        self._client.close()
        for thread in self._threads:
            thread.join()

    def finish(self) -> None:
        """Waits until every customer has finished its current session."""
        self._stop_event.set()
        for thread in self._threads:
            thread.join()

    def _seed(self) -> int:
        with self._lock:
            self._next += 1
            return self._next

    def _adapt(self) -> None:
        try:
            while not self._stop_event.is_set():
                self.outcomes.append(adapt_once(self._client, self._seed()))
        except BaseException as error:  # the test raises it
            self.failures.append(error)

    def _let_expire(self) -> None:
        number = 0
        while not self._stop_event.wait(0.1):
            number += 1
            rng = np.random.default_rng((1, number))
            try:
                session = patiently(lambda: self._client.create_session(NAME, ttl=0.5))
                session.upload(play(session.policy, rng))
                session.adapt()
            except tp.ThetaPrimeError:
                # The session expired before its first use, or the server died: either leaves data for the sweep.
                continue
