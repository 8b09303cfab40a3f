"""Scrapes a metrics page, with the names that queries use."""

import contextlib
import http.client
import socket
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

SUFFIXES: Final = {"counter": "_total", "info": "_info"}


def free_address() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


def scrape(address: str) -> dict[str, Metric]:
    """Returns the metrics by the names that queries use."""
    with contextlib.closing(http.client.HTTPConnection(address, timeout=60)) as connection:
        connection.request("GET", "/metrics", headers={"Accept": "application/openmetrics-text"})
        text = connection.getresponse().read().decode()
    return {family.name + SUFFIXES.get(family.type, ""): family for family in text_string_to_metric_families(text)}


def value(metrics: dict[str, Metric], sample: str, **labels: str) -> float:
    """Returns one sample, 0 if missing; a histogram has ``<metric>_count`` and ``<metric>_sum``."""
    found = [each for metric in metrics.values() for each in metric.samples if each.name == sample]
    return next((each.value for each in found if each.labels == labels), 0.0)
