"""What a server counts and measures, under the names that docs/operating.md explains."""

import contextlib
import time
from collections.abc import Iterator
from typing import Final

import grpc
from google.rpc import error_details_pb2, status_pb2
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """What one process counts, in a registry of its own: one process may hold several servers.

    In a process of which there are several, the values lie in files that another one adds up
    (`prometheus_client.multiprocess`): every gauge says how, and none is a function.

    Attributes:
        registry: all of them.
        serving: 1 while the health service says SERVING.
        meta_policies: versions in the catalog.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.serving = Gauge(
            "thetaprime_serving",
            "1 while health says SERVING, 0 otherwise.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.meta_policies = Gauge(
            "thetaprime_meta_policies", "Versions in the catalog.", registry=registry, multiprocess_mode="livemax"
        )
        self._calls = Counter(
            "thetaprime_calls", "Calls that ended, by status code.", ["method", "code"], registry=registry
        )
        self._refusals = Counter(
            "thetaprime_refusals", "Calls refused, by reason.", ["method", "code", "reason"], registry=registry
        )
        self._call_seconds = Histogram(
            "thetaprime_call_seconds", "From a call to its end.", ["method"], buckets=_SECONDS, registry=registry
        )
        self._rounds = Counter("thetaprime_rounds", "Rounds taken.", ["meta_policy"], registry=registry)
        self._round_seconds = Histogram(
            "thetaprime_round_seconds", "From Adapt to its θ′, waiting included.", buckets=_SECONDS, registry=registry
        )
        self._step_seconds = Histogram(
            "thetaprime_step_seconds", "A step on its thread: gradient and store.", buckets=_SECONDS, registry=registry
        )
        self._gradient_seconds = Histogram(
            "thetaprime_gradient_seconds", "Computing a step, whenever.", buckets=_SECONDS, registry=registry
        )
        self._store_seconds = Histogram(
            "thetaprime_store_seconds", "Store operations.", ["operation"], buckets=_SECONDS, registry=registry
        )
        self._steps_running = Gauge(
            "thetaprime_steps_running",
            "Steps that a thread is taking.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._steps_waiting = Gauge(
            "thetaprime_steps_waiting", "Steps in the queue.", registry=registry, multiprocess_mode="livesum"
        )
        processes = Gauge(
            "thetaprime_workers", "Processes that are running.", registry=registry, multiprocess_mode="livesum"
        )
        processes.set(1)
        ProcessCollector(registry=registry)

    def call_ended(self, method: str, code: grpc.StatusCode, seconds: float) -> None:
        """Counts a call.

        Args:
            method: as gRPC names it, ``/package.Service/Method``.
            code: how it ended.
            seconds: how long it took.
        """
        name = method.rpartition("/")[2]
        self._calls.labels(name, code.name).inc()
        self._call_seconds.labels(name).observe(seconds)

    def call_refused(self, method: str, code: grpc.StatusCode, status: status_pb2.Status) -> None:
        """Counts a refusal under the reason that the client is given, or the code's name where it is given none."""
        reason = code.name
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                reason = info.reason
        self._refusals.labels(method.rpartition("/")[2], code.name, reason).inc()

    def step_waiting(self) -> contextlib.AbstractContextManager[object]:
        """Around a step's wait for a thread."""
        return self._steps_waiting.track_inprogress()

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Around a step on its thread."""
        with self._steps_running.track_inprogress(), self._step_seconds.time():
            yield

    def round_taken(self, meta_policy: str, seconds: float, computing: float) -> None:
        """Counts a round.

        Args:
            meta_policy: its name.
            seconds: since `Adapt` came.
            computing: seconds that its step took to compute, which may have been before that.
        """
        self._rounds.labels(meta_policy).inc()
        self._round_seconds.observe(seconds)
        self._gradient_seconds.observe(computing)

    @contextlib.contextmanager
    def store_operation(self, operation: str) -> Iterator[None]:
        """Around an operation of the store, whether it succeeds or not."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._store_seconds.labels(operation).observe(time.perf_counter() - started)
