"""Metrics: their values, and that docs/operating.md and the dashboard name the same metrics."""

import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.support.server.metrics_page import free_address, scrape, value
from tests.support.server.supervised import Channels, supervised, until
from thetaprime import models, wire
from thetaprime.server import StartupError, running_server
from thetaprime.server.sessions import uploads
from thetaprime.server.telemetry import exposition
from thetaprime.v1 import adaptation_service_pb2 as service_pb

if TYPE_CHECKING:
    from tests.support.server.service import Configure, Start

Collect = Callable[..., list[wire.Trajectory]]
# On the page of several workers, metrics with labels appear with their first sample.
NOT_YET = {
    "thetaprime_decisions_total",
    "thetaprime_precomputed_steps_total",
    "thetaprime_refusals_total",
    "thetaprime_rounds_total",
}
DOCS = Path(__file__).parents[2] / "docs"


def test_a_round_and_a_refusal_are_counted(start: "Start", collect: Collect) -> None:
    address, end = free_address(), time.monotonic() + 60
    with start(metrics_address=address, row_bytes=0, recent_bytes=1) as service:
        before = scrape(address)
        assert value(before, "thetaprime_sessions_open") == 0
        assert value(before, "thetaprime_serving") == 1
        assert value(before, "thetaprime_meta_policies") == 2
        assert value(before, "thetaprime_limit", setting="adaptation_threads") == 2
        created = service.create()
        session_id = created.session.session_id
        batch = service.upload(session_id, collect(created.policy)).batch
        service.adapt(session_id, 0, batch.sha256)
        with service.refuses():
            service.adapt(session_id, 7, batch.sha256)
        with service.refuses():
            service.get("missing")
        # A refusal is counted after it was sent.
        while not value(after := scrape(address), "thetaprime_calls_total", method="GetSession", code="NOT_FOUND"):
            assert time.monotonic() < end
        closed = service.create()
        service.stub.CloseSession(service_pb.CloseSessionRequest(session_id=closed.session.session_id))
        assert value(scrape(address), "thetaprime_sessions_open") == 1
    assert value(after, "thetaprime_sessions_open") == 1
    assert value(after, "thetaprime_rounds_total", meta_policy="point-navigation") == 1
    assert value(after, "thetaprime_calls_total", method="Adapt", code="OK") == 1
    assert value(after, "thetaprime_calls_total", method="Adapt", code="ABORTED") == 1
    refused = "thetaprime_refusals_total"
    assert value(after, refused, method="Adapt", code="ABORTED", reason="ROUND_MISMATCH") == 1
    assert value(after, refused, method="GetSession", code="NOT_FOUND", reason="NOT_FOUND") == 1
    assert value(after, "thetaprime_call_seconds_count", method="Adapt") == 2
    assert value(after, "thetaprime_step_seconds_count") == 1
    assert value(after, "thetaprime_gradient_seconds_count") == 1
    assert value(after, "thetaprime_round_seconds_count") == 1
    assert value(after, "thetaprime_round_seconds_sum") >= value(after, "thetaprime_step_seconds_sum") > 0
    for operation in ("read", "write", "put", "get"):
        assert value(after, "thetaprime_store_seconds_count", operation=operation) > 0, operation


def test_a_canceled_upload_is_counted_as_canceled_even_if_its_stream_ends_first(
    start: "Start", collect: Collect, monkeypatch: pytest.MonkeyPatch
) -> None:
    header_is_in = threading.Semaphore(0)

    def admit(*args: Any) -> uploads.AdmittedUpload:
        admitted = uploads.admit_upload(*args)
        header_is_in.release()
        return admitted

    monkeypatch.setattr("thetaprime.server.rpc.adaptation_service.admit_upload", admit)
    address, end, count = free_address(), time.monotonic() + 60, 20
    with start(metrics_address=address) as service:
        created = service.create()
        header, *_ = wire.iter_upload(created.session.session_id, "u", 0, wire.pack(collect(created.policy)), 4, 32)
        for _ in range(count):
            over = threading.Event()

            def messages(over: threading.Event = over) -> Iterator[service_pb.UploadTrajectoriesRequest]:
                yield header
                over.wait(60)

            call: Any = service.stub.UploadTrajectories.future(messages(), timeout=60)
            assert header_is_in.acquire(timeout=60)
            call.cancel()
            over.set()
        while value(found := scrape(address), "thetaprime_call_seconds_count", method="UploadTrajectories") < count:
            assert time.monotonic() < end
    assert value(found, "thetaprime_calls_total", method="UploadTrajectories", code="CANCELLED") == count
    assert not found["thetaprime_refusals_total"].samples


@pytest.mark.usefixtures("no_precomputation")
def test_running_and_waiting_steps_are_counted_separately(
    start: "Start", collect: Collect, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(*args: Any, **kwargs: Any) -> models.InnerStep:
        begun.set()
        assert go_on.wait(60)
        return models.adapt_step(*args, **kwargs)

    address = free_address()
    with start(adaptation_threads=1, metrics_address=address) as service:
        monkeypatch.setattr("thetaprime.models.verdict.session_step.adapt_step", slow)
        requests = []
        for _ in range(3):
            created = service.create()
            session_id = created.session.session_id
            digest = service.upload(session_id, collect(created.policy)).batch.sha256
            requests.append(service_pb.AdaptRequest(session_id=session_id, batch_sha256=digest))
        calls: list[Any] = [service.stub.Adapt.future(request, timeout=60) for request in requests]
        assert begun.wait(60)
        while value(busy := scrape(address), "thetaprime_steps_waiting") < 2:
            assert not any(call.done() for call in calls)
        assert value(busy, "thetaprime_steps_running") == 1
        go_on.set()
        for call in calls:
            call.result()
        idle = scrape(address)
    assert (value(idle, "thetaprime_steps_running"), value(idle, "thetaprime_steps_waiting")) == (0, 0)


def test_servers_in_one_process_have_separate_metrics(start: "Start") -> None:
    first, second = free_address(), free_address()
    with start(metrics_address=first) as service, start(metrics_address=second):
        service.create()
        assert value(scrape(first), "thetaprime_calls_total", method="CreateSession", code="OK") == 1
        assert value(scrape(second), "thetaprime_calls_total", method="CreateSession", code="OK") == 0


def test_a_metrics_address_that_is_in_use_is_refused(configure: "Configure") -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with (
            pytest.raises(StartupError, match=f"metrics address {address}"),
            running_server(configure(metrics_address=address)),
        ):
            pass


def documented() -> dict[str, tuple[str, set[str]]]:
    """Returns type and labels of each metric in docs/operating.md."""
    page = (DOCS / "operating.md").read_text()
    listed = re.findall(r"^\| `((?:thetaprime|process)_\w+)` \| (\w+) \| (.*?) \|", page, re.MULTILINE)
    return {name: (kind, set(re.findall(r"`(\w+)`", words))) for name, kind, words in listed}


def test_the_documented_metrics_are_the_served_metrics(start: "Start", collect: Collect) -> None:
    address, end = free_address(), time.monotonic() + 60
    with start(metrics_address=address) as service:
        created = service.create()
        batch = service.upload(created.session.session_id, collect(created.policy)).batch
        service.adapt(created.session.session_id, 0, batch.sha256)
        with service.refuses():
            service.get("missing")
        # A refusal is counted after it was sent.
        metrics = scrape(address)
        while not all(metric.samples for metric in metrics.values()):
            assert time.monotonic() < end
            metrics = scrape(address)
    expected = documented()
    assert {name: kind for name, (kind, _) in expected.items()} == {name: each.type for name, each in metrics.items()}
    for name, metric in metrics.items():
        for sample in metric.samples:
            assert set(sample.labels) - {"le"} == expected[name][1], name


def test_the_dashboard_queries_served_metrics_only(start: "Start") -> None:
    address = free_address()
    with start(metrics_address=address):
        metrics = scrape(address)
    known = set(metrics)
    for name, metric in metrics.items():
        if metric.type == "histogram":
            known |= {f"{name}_bucket", f"{name}_count", f"{name}_sum"}
    dashboard = json.loads((DOCS / "grafana-dashboard.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in panels:
        for target in panel["targets"]:
            asked = set(re.findall(r"\b(?:thetaprime|process)_\w+", target["expr"]))
            assert asked and asked <= known, (panel["title"], asked - known)


def test_no_metrics_are_served_by_default(configure: "Configure", monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []

    class Recorded(exposition.MetricsServer):
        def __init__(self, *arguments: Any) -> None:
            opened.append(arguments)
            super().__init__(*arguments)

    monkeypatch.setattr(exposition, "MetricsServer", Recorded)
    for metrics_address, ports in (("", 0), (free_address(), 1)):
        with (
            running_server(configure(metrics_address=metrics_address)) as address,
            grpc.insecure_channel(address) as channel,
        ):
            grpc.channel_ready_future(channel).result(60)
        assert len(opened) == ports


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_several_workers_share_one_page(configure: "Configure") -> None:
    config = configure(workers=2, metrics_address=free_address(), queue=7)
    calls = 24
    with supervised(config) as server:

        def call_from_anew() -> None:
            with Channels(server.address, 1) as channels:
                channels.call_until_served(lambda stub: stub.ListSessions(service_pb.ListSessionsRequest(), timeout=60))

        for _ in range(calls):
            call_from_anew()
        until(lambda: {line["worker"] for line in server.lines() if line["event"] == "call"} == {0, 1})
        before = scrape(config.metrics_address)
        assert value(before, "thetaprime_calls_total", method="ListSessions", code="OK") == calls
        assert value(before, "thetaprime_workers") == 2
        for setting, limit in {"workers": 2, "queue": 14, "adaptation_threads": 4, "max_sessions": 10_000}.items():
            assert value(before, "thetaprime_limit", setting=setting) == limit, setting
        # The page has every metric of a single process, and process metrics for each worker.
        assert {name: kind for name, (kind, _) in documented().items()} == {
            name: each.type for name, each in before.items()
        } | {name: kind for name, (kind, _) in documented().items() if name in NOT_YET}
        for name, metric in before.items():
            assert metric.documentation, name
            assert not {sample.labels.get("pid") for sample in metric.samples} - {None}, name
            if name.startswith("process_"):
                assert [sample.labels for sample in metric.samples] == [{"worker": "0"}, {"worker": "1"}], name
        os.kill(server.pids[0], signal.SIGKILL)
        server.wait_for_line("worker restarted")
        call_from_anew()
        after = scrape(config.metrics_address)
        # The counts of the dead worker are kept, and it no longer counts as running.
        assert value(after, "thetaprime_calls_total", method="ListSessions", code="OK") == calls + 1
        assert value(after, "thetaprime_workers") == 2
        assert value(after, "thetaprime_serving") == 1
        assert value(after, "thetaprime_meta_policies") == 2
