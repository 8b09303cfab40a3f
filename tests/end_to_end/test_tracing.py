"""Traces: one trace from the client's `adapt` through upload, store and gradient; no OpenTelemetry when it is off."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import thetaprime.client as tp
from thetaprime.server import ServerConfig, running_server

ROUNDS = 2


class Point(gymnasium.Env[np.ndarray, np.ndarray]):
    """Walks in the plane."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(np.full(2, -0.1, np.float32), np.full(2, 0.1, np.float32))

    def reset(self, **_: object) -> tuple[np.ndarray, dict[str, object]]:
        self.position, self.left = np.zeros(2, np.float32), 5
        return self.position, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, object]]:
        self.position = (self.position + action).astype(np.float32)
        self.left -= 1
        return self.position, float(self.position.sum()), False, self.left == 0, {}


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)  # allowed once per process
    return exporter


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Iterator[InMemorySpanExporter]:
    exporter.clear()
    yield exporter
    exporter.clear()


def served(point_artifact: Path, store: Path, *, tracing: bool) -> ServerConfig:
    return ServerConfig(address="127.0.0.1:0", store=store, zoo=(point_artifact,), tracing=tracing, row_bytes=0)


def adapt(address: str, *, tracing: bool) -> None:
    with tp.Client(address, tracing=tracing) as client:
        client.adapt("point-navigation", Point(), rounds=ROUNDS, trajectories=2, seed=1, verify=0)


def trace_of(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id


def test_one_trace_spans_client_server_store_and_gradient(
    spans: InMemorySpanExporter, point_artifact: Path, tmp_path: Path
) -> None:
    with running_server(served(point_artifact, tmp_path, tracing=True)) as address:
        adapt(address, tracing=True)
    finished = list(spans.get_finished_spans())
    (root,) = [span for span in finished if span.name == "adapt"]
    by_id = {span.get_span_context().span_id: span for span in finished}  # type: ignore[union-attr]

    def ancestors(span: ReadableSpan) -> list[str]:
        return [span.name, *(ancestors(by_id[span.parent.span_id]) if span.parent else [])]

    ours = [ancestors(span) for span in finished if trace_of(span) == trace_of(root)]
    service = "thetaprime.v1.AdaptationService"
    assert all(path[-1] == "adapt" for path in ours)
    for path, times in {
        ("store.put", f"{service}/UploadTrajectories", "session.upload", "adapt"): ROUNDS,
        ("store.write", f"{service}/UploadTrajectories", "session.upload", "adapt"): ROUNDS,
        ("gradient", f"{service}/UploadTrajectories", "session.upload", "adapt"): ROUNDS,
        ("store.write", f"{service}/Adapt", "session.adapt", "adapt"): ROUNDS,
        ("store.write", f"{service}/CreateSession", "create_session", "adapt"): 1,
        ("store.write", f"{service}/CloseSession", "session.close", "adapt"): 1,
    }.items():
        assert ours.count(list(path)) == times, path
    # Background work of the server has no span.
    assert {span.name for span in finished if trace_of(span) != trace_of(root)} == set()


def test_concurrent_clients_have_separate_traces(
    spans: InMemorySpanExporter, point_artifact: Path, tmp_path: Path
) -> None:
    with running_server(served(point_artifact, tmp_path, tracing=True)) as address:
        threads = [threading.Thread(target=adapt, args=(address,), kwargs={"tracing": True}) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finished = spans.get_finished_spans()
    roots = [trace_of(span) for span in finished if span.name == "adapt"]
    assert len(set(roots)) == len(threads)
    for root in roots:
        assert [span.name for span in finished if trace_of(span) == root].count("gradient") == ROUNDS


@pytest.mark.parametrize(("client", "server"), [(True, False), (False, True)])
def test_either_side_can_be_traced_alone(
    spans: InMemorySpanExporter, point_artifact: Path, tmp_path: Path, client: bool, server: bool
) -> None:
    with running_server(served(point_artifact, tmp_path, tracing=server)) as address:
        adapt(address, tracing=client)
    names = {span.name for span in spans.get_finished_spans()}
    assert ("adapt" in names, "gradient" in names) == (client, server)


OFF = """
import sys
from pathlib import Path
import thetaprime.client as tp
from thetaprime.server import ServerConfig, running_server
config = ServerConfig(address="127.0.0.1:0", store=Path(sys.argv[2]), zoo=(Path(sys.argv[1]),))
with running_server(config) as address, tp.Client(address) as client:
    session = client.create_session("point-navigation")
    session.close()
assert not [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]
"""


@pytest.mark.slow
def test_opentelemetry_is_not_imported_when_tracing_is_off(point_artifact: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", OFF, str(point_artifact), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert result.returncode == 0, result.stderr


def test_without_the_extra_both_sides_name_the_extra(
    monkeypatch: pytest.MonkeyPatch, point_artifact: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(tp.InvalidInputError, match=r"thetaprime\[tracing\]"):
        tp.Client("localhost:1", tracing=True)
    with (
        pytest.raises(RuntimeError, match=r"thetaprime\[tracing\]"),
        running_server(served(point_artifact, tmp_path, tracing=True)),
    ):
        pass
