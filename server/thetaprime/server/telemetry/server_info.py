"""Metrics of a server as a whole, independent of its number of processes."""

import importlib.metadata
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Info

from thetaprime.server.config import ServerConfig
from thetaprime.server.store import Store
from thetaprime.server.telemetry.store_metrics import StoreMetrics

_SERVER_LIMITS: Final = ("max_sessions", "workers")
_PROCESS_LIMITS: Final = ("adaptation_threads", "max_inflight_bytes", "queue")


def register_worker_ends(registry: CollectorRegistry) -> Counter:
    """Registers a counter of workers that ended before they were stopped, by ``reason``: ``ended`` or ``hung``."""
    ends = Counter(
        "thetaprime_worker_ends", "Workers that ended, or hung and were killed.", ["reason"], registry=registry
    )
    for reason in ("ended", "hung"):
        ends.labels(reason)
    return ends


def register_server_info(registry: CollectorRegistry, config: ServerConfig, store: Store, processes: int = 1) -> None:
    """Registers the version, the limits (to be drawn beside the metrics that they bound) and the store's size.

    Args:
        registry: receives the metrics.
        config: the settings.
        store: the store.
        processes: number of server processes; the limits of one process are multiplied by it.
    """
    build = Info("thetaprime_build", "The version that runs.", registry=registry)
    build.info({"version": importlib.metadata.version("thetaprime")})
    limits = Gauge("thetaprime_limit", "Settings that bound other metrics.", ["setting"], registry=registry)
    for settings, count in ((_SERVER_LIMITS, 1), (_PROCESS_LIMITS, processes)):
        for setting in settings:
            limits.labels(setting).set(getattr(config, setting) * count)
    registry.register(StoreMetrics(store))
