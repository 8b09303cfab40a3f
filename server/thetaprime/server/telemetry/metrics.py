"""The Prometheus metrics of one server process; docs/operating.md documents each."""

import contextlib
import time
from collections.abc import Iterator
from typing import Final

import grpc
from google.rpc import error_details_pb2, status_pb2
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from thetaprime.server.logging import dropped_lines
from thetaprime.v1 import adaptation_service_pb2 as service_pb

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The metrics of one server, in a separate registry: one process may run several servers.

    Workers write their values to files, and the supervisor aggregates them (`prometheus_client.multiprocess`). So every
    gauge states its aggregation, and none is computed by a callback.

    Attributes:
        registry: holds every metric.
        serving: 1 while the health service answers SERVING, else 0.
        meta_policies: meta-policy versions in the catalog.
        connections: open connections of clients.
        blocked_addresses: addresses whose new connections are refused.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.serving = Gauge(
            "thetaprime_serving",
            "1 while the health service answers SERVING, else 0.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.meta_policies = Gauge(
            "thetaprime_meta_policies",
            "Meta-policy versions in the catalog.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.connections = Gauge(
            "thetaprime_connections",
            "Open connections of clients.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.blocked_addresses = Gauge(
            "thetaprime_blocked_addresses",
            "Addresses whose new connections are refused.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._closed_connections = Counter(
            "thetaprime_connections_closed", "Connections that the server closed.", ["reason"], registry=registry
        )
        self._calls = Counter("thetaprime_calls", "Calls ended, by status code.", ["method", "code"], registry=registry)
        self._refusals = Counter(
            "thetaprime_refusals", "Calls refused, by reason.", ["method", "code", "reason"], registry=registry
        )
        self._call_seconds = Histogram(
            "thetaprime_call_seconds", "Duration of a call.", ["method"], buckets=_SECONDS, registry=registry
        )
        self._rounds = Counter("thetaprime_rounds", "Adaptation rounds committed.", ["meta_policy"], registry=registry)
        self._decisions = Counter(
            "thetaprime_decisions",
            "Decisions about steps, by their first reason.",
            ["decision", "reason"],
            registry=registry,
        )
        self._round_seconds = Histogram(
            "thetaprime_round_seconds",
            "From Adapt to its θ′, including the wait in the queue.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._step_seconds = Histogram(
            "thetaprime_step_seconds",
            "An adaptation step on its thread: gradient and store.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._gradient_seconds = Histogram(
            "thetaprime_gradient_seconds",
            "Computation of a step, precomputed or not.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._precomputed = Counter(
            "thetaprime_precomputed_steps", "Steps precomputed, by result.", ["result"], registry=registry
        )
        self._store_seconds = Histogram(
            "thetaprime_store_seconds",
            "Duration of store operations.",
            ["operation"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._log_lines_dropped = Counter(
            "thetaprime_log_lines_dropped", "Log lines dropped while standard error stalled.", registry=registry
        )
        self._log_lines_counted = dropped_lines()
        self._steps_running = Gauge(
            "thetaprime_steps_running",
            "Adaptation steps running on a thread.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._steps_waiting = Gauge(
            "thetaprime_steps_waiting",
            "Adaptation steps waiting in the queue.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        processes = Gauge(
            "thetaprime_workers", "Server processes running.", registry=registry, multiprocess_mode="livesum"
        )
        processes.set(1)
        ProcessCollector(registry=registry)

    def record_call(self, method: str, code: grpc.StatusCode, seconds: float) -> None:
        """Counts a call that ended.

        Args:
            method: as gRPC names it, ``/package.Service/Method``.
            code: its status.
            seconds: its duration.
        """
        name = method.rpartition("/")[2]
        self._calls.labels(name, code.name).inc()
        self._call_seconds.labels(name).observe(seconds)

    def record_closed_connections(self, reason: str, count: int) -> None:
        """Counts connections that the server closed.

        Args:
            reason: a constant.
            count: their number; 0 lets the page show the reason.
        """
        self._closed_connections.labels(reason).inc(count)

    def record_refusal(self, method: str, code: grpc.StatusCode, status: status_pb2.Status) -> str:
        """Counts a refused call by its reason.

        Returns:
            The reason in its `ErrorInfo`; without one, the name of its status code.
        """
        reason = code.name
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                reason = info.reason
        self._refusals.labels(method.rpartition("/")[2], code.name, reason).inc()
        return reason

    def update_log_lines_dropped(self) -> None:
        """Counts the log lines that were dropped since the last call. For a periodic task."""
        total = dropped_lines()
        self._log_lines_dropped.inc(max(0, total - self._log_lines_counted))
        self._log_lines_counted = total

    def track_waiting_step(self) -> contextlib.AbstractContextManager[object]:
        """Counts a step as waiting for the duration of the context."""
        return self._steps_waiting.track_inprogress()

    @contextlib.contextmanager
    def track_step(self) -> Iterator[None]:
        """Counts a step as running, and measures it, for the duration of the context."""
        with self._steps_running.track_inprogress(), self._step_seconds.time():
            yield

    def record_round(self, meta_policy: str, seconds: float, computing: float) -> None:
        """Counts a round.

        Args:
            meta_policy: its name.
            seconds: time since the `Adapt` call.
            computing: seconds of computation of its step, which a precomputed step spent before the `Adapt` call.
        """
        self._rounds.labels(meta_policy).inc()
        self._round_seconds.observe(seconds)
        self._gradient_seconds.observe(computing)

    def record_verdict(self, verdict: service_pb.Verdict) -> None:
        """Counts a decision by its weightiest reason; ``NONE`` without one."""
        decision = service_pb.Decision.Name(verdict.decision).removeprefix("DECISION_")
        code = verdict.reasons[0].code if verdict.reasons else None
        reason = "NONE" if code is None else service_pb.ReasonCode.Name(code).removeprefix("REASON_CODE_")
        self._decisions.labels(decision, reason).inc()

    def record_precomputed_step(self, result: str) -> None:
        """Counts a step that was precomputed when its upload arrived.

        Args:
            result: ``computed`` or ``failed``.
        """
        self._precomputed.labels(result).inc()

    @contextlib.contextmanager
    def time_store_operation(self, operation: str) -> Iterator[None]:
        """Measures a store operation, successful or not, for the duration of the context."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._store_seconds.labels(operation).observe(time.perf_counter() - started)
