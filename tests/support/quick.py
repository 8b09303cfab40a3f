"""Fixtures that shorten what a test waits for, or computes, beside its subject."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from thetaprime.client._async import runtime as async_runtime
from thetaprime.client._async import transport as async_transport
from thetaprime.client._rpc.channel import BACKOFF, CHANNEL_OPTIONS
from thetaprime.client._sync import runtime as sync_runtime
from thetaprime.client._sync import transport as sync_transport


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the clients of this process retry as often as always, with pauses of hundredths of a second."""
    options = dict(CHANNEL_OPTIONS)
    service_config = json.loads(options["grpc.service_config"])
    service_config["methodConfig"][0]["retryPolicy"] |= {"initialBackoff": "0.01s", "maxBackoff": "0.05s"}
    options["grpc.service_config"] = json.dumps(service_config)
    for bound in ("initial", "min", "max"):
        options[f"grpc.{bound}_reconnect_backoff_ms"] = 20
    for runtime in (async_runtime, sync_runtime):
        monkeypatch.setattr(runtime, "CHANNEL_OPTIONS", tuple(options.items()))
    for transport in (async_transport, sync_transport):
        monkeypatch.setattr(transport, "BACKOFF", (0.01, 0.05, BACKOFF[2]))


@pytest.fixture
def quick_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets an evaluation try fewer ways to fine-tune a comparison, and an export describe fewer tasks."""
    fine_tuning = "thetaprime.training.evaluation.fine_tuning"
    monkeypatch.setattr(f"{fine_tuning}.FINE_TUNING_RATES", (0.1,))
    monkeypatch.setattr(f"{fine_tuning}._FINE_TUNING_STEPS", 1)
    monkeypatch.setattr("thetaprime.training.export.reference._TASKS", 8)

    def simulate_few(*described: Any) -> Iterator[Any]:
        from thetaprime.training.export import simulated_rounds

        meta_policy, distribution, tasks, seed = described
        return simulated_rounds.simulate_rounds(meta_policy, distribution, tasks if tasks <= 20 else 4, seed)

    monkeypatch.setattr("thetaprime.training.export.add_calibration.simulate_rounds", simulate_few)
