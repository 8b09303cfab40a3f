"""What is true of a server as a whole, however many processes it has."""

import importlib.metadata
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, Info

from thetaprime.server.config import ServerConfig
from thetaprime.server.store import Store
from thetaprime.server.telemetry.store_metrics import StoredState

_LIMITS: Final = ("max_sessions", "workers")
_LIMITS_OF_EACH_PROCESS: Final = ("adaptation_threads", "max_inflight_bytes", "queue")


def add_server_info(registry: CollectorRegistry, config: ServerConfig, store: Store, processes: int = 1) -> None:
    """Adds the version, the limits, to be drawn beside what they limit, and how much the store holds.

    Args:
        registry: where to.
        config: the settings.
        store: the store.
        processes: of the server; what limits each of them is counted for all.
    """
    build = Info("thetaprime_build", "What is running.", registry=registry)
    build.info({"version": importlib.metadata.version("thetaprime")})
    limits = Gauge("thetaprime_limit", "Settings that bound the others.", ["setting"], registry=registry)
    for settings, count in ((_LIMITS, 1), (_LIMITS_OF_EACH_PROCESS, processes)):
        for setting in settings:
            limits.labels(setting).set(getattr(config, setting) * count)
    registry.register(StoredState(store, config.store))
