"""On a full, read-only or broken disk, writes are refused with a reason; they succeed once the disk has recovered."""

import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import thetaprime.client as tp
from tests.support.artifacts import write_point_artifact
from tests.support.faults.customers import adapt_once, patiently
from tests.support.point_navigation import NAME, collect, play
from tests.support.server.process import ServerProcess
from tests.support.server.service import Start
from thetaprime.server import failpoints


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


@pytest.mark.parametrize(("action", "reason"), [("full", "STORE_FULL"), ("readonly", "STORE_READ_ONLY")])
@pytest.mark.parametrize("point", ["blob.opened", "blob.half", "blob.synced", "create.row", "upload.row", "adapt.rows"])
def test_a_call_that_cannot_write_is_refused_and_counts_once_when_retried(
    start: Start, point: str, action: str, reason: str
) -> None:
    with start(row_bytes=0) as service:
        calls: list[Callable[[], Any]] = []
        created = service.create() if point != "create.row" else None
        if created is None:
            calls = [lambda: service.create(request_id="again")]
        else:
            session, trajectories = created.session.session_id, collect(created.policy)
            calls = [lambda: service.upload(session, trajectories, upload_id="u")]
            if point.startswith("adapt"):
                batch = calls[0]().batch
                calls = [lambda: service.adapt(session, 0, batch.sha256)]
        failpoints.arm(f"{point}={action}")
        for call in calls:
            with service.refuses(session if created else "") as refusal:
                call()
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, reason)
            assert refusal.retry_delay > 0
        failpoints.arm("")
        for call in calls:
            assert call() == call()


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux's prlimit")
def test_a_process_whose_files_cannot_grow_recovers(tmp_path: Path) -> None:
    """No file of the process may grow: neither a blob nor the database's log."""
    write_point_artifact(tmp_path / "zoo")
    with ServerProcess(tmp_path, tmp_path / "zoo") as server, tp.Client(server.address, timeout=10) as client:
        server.start()
        session = patiently(lambda: client.create_session(NAME))
        trajectories = play(session.policy, np.random.default_rng(0))
        before = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (0, before[1]))
        with pytest.raises(tp.UnreachableError, match="the store failed"):
            session.upload(trajectories)
        with pytest.raises(tp.UnreachableError, match="the store failed"):
            client.create_session(NAME)
        # A call that only reads succeeds.
        assert client.resume(session.id).info.batch.uploads == 0
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, before)
        assert patiently(lambda: session.upload(trajectories)).batch.uploads == 1
        assert session.adapt().onnx
        assert not adapt_once(client, 1).lost
        assert server.stop() == 0
    assert "internal error" not in server.log.read_text()
