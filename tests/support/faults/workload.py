"""Customers of a server that may die under them: what each does depends on its seed alone."""

import dataclasses
import random
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

import numpy as np

import thetaprime.client as tp
from tests.support.point_navigation import play
from thetaprime import wire

META_POLICY: Final = "point-navigation"
ROUNDS: Final = 2
UPLOADS: Final = 2
PATIENCE: Final = 600.0
"""Seconds that a customer goes on asking a server that does not answer."""

_Result = TypeVar("_Result")
# What a server that is killed, starting or short of disk gives its callers; the same call again has the effect of one.
_PASSING: Final = (tp.UnreachableError, tp.DeadlineError, tp.LimitError)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one adaptation came to.

    Attributes:
        seed: of the customer.
        policies: SHA-256 of the ONNX file of θ_1, θ_2, … as they came.
        lost: what was acknowledged and then could not be had again, in words.
    """

    seed: int
    policies: tuple[str, ...]
    lost: tuple[str, ...]


def patiently(call: Callable[[], _Result], patience: float = PATIENCE) -> _Result:
    """The result of a call that is repeated while the server is away."""
    end = time.monotonic() + patience
    while True:
        try:
            return call()
        except _PASSING:
            if time.monotonic() > end:
                raise
            time.sleep(random.uniform(0.02, 0.2))


def adapt_once(client: tp.Client, seed: int, ttl: float | None = None) -> Outcome:
    """One session: uploads and steps, then everything that was acknowledged is asked for again."""
    rng = np.random.default_rng(seed)
    session = patiently(lambda: client.create_session(META_POLICY, request_id=f"customer-{seed}", ttl=ttl))
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
            lost.append(f"seed {seed}: θ_{index} is not what it was")
    # In an hour there are more sessions than a server has open.
    patiently(session.close)
    return Outcome(seed, tuple(wire.sha256_hex(onnx) for onnx in received), tuple(lost))


class Customers:
    """Threads that adapt, one session after another, until they are told to stop.

    Args:
        address: of the server.
        count: customers at once.
        expiring: whether one of them makes sessions that expire at once, for the sweep to find.
    """

    def __init__(self, address: str, count: int, *, expiring: bool = False) -> None:
        self._client = tp.Client(address, timeout=10.0)
        self._told = threading.Event()
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
        self._told.set()
        self._client.close()
        for thread in self._threads:
            thread.join()

    def finish(self) -> None:
        """Lets every customer end the session that it is at."""
        self._told.set()
        for thread in self._threads:
            thread.join()

    def _seed(self) -> int:
        with self._lock:
            self._next += 1
            return self._next

    def _adapt(self) -> None:
        try:
            while not self._told.is_set():
                self.outcomes.append(adapt_once(self._client, self._seed()))
        except BaseException as error:  # told by the thread that waits
            self.failures.append(error)

    def _let_expire(self) -> None:
        number = 0
        while not self._told.wait(0.1):
            number += 1
            rng = np.random.default_rng((1, number))
            try:
                session = patiently(lambda: self._client.create_session(META_POLICY, ttl=0.5))
                session.upload(play(session.policy, rng))
                session.adapt()
            except tp.ThetaPrimeError:
                # It expired before it was used, or the server went away: all that matters is what is left of it.
                continue
