"""Metrics of the store: open sessions and stored bytes, each measured at a bounded cost."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.server.metrics_page import free_address, scrape, value
from thetaprime import wire
from thetaprime.server import running_server
from thetaprime.server.sessions.rows import SessionRecord
from thetaprime.server.store import Store, tables
from thetaprime.server.telemetry.store_metrics import BlobSizes, count_open_sessions

if TYPE_CHECKING:
    from tests.support.server.service import Configure, Start

Collect = Callable[..., list[wire.Trajectory]]


def test_stored_bytes_grow(start: "Start", collect: Collect) -> None:
    address = free_address()
    with start(metrics_address=address, row_bytes=1024) as service:
        before = scrape(address)
        created = service.create()
        service.upload(created.session.session_id, collect(created.policy))
        deadline = time.monotonic() + 60
        for kind in ("blobs", "database"):
            # Each scrape measures a part of the blobs, so several may be needed.
            while not value(scrape(address), "thetaprime_stored_bytes", kind=kind) > value(
                before, "thetaprime_stored_bytes", kind=kind
            ):
                assert time.monotonic() < deadline, kind


def record(session_id: str, *, closed: bool = False, expire_time: int = 10) -> dict[str, object]:
    return {
        "session_id": session_id,
        "tenant": "",
        "request_id": session_id,
        "request_sha256": "",
        "meta_policy": "m",
        "meta_policy_version": 1,
        "theta_id": "",
        "step_size_scale": None,
        "closed": closed,
        "round": 0,
        "policy_id": "",
        "create_time": 0,
        "expire_time": expire_time,
        "delete_time": expire_time + 10,
        "kept_bytes": 0,
        "kept_steps": 0,
        "doubt": None,
        "policy_bytes": 0,
        "options": None,
        "best_round": None,
        "best_policy_id": None,
    }


def test_counting_sessions_is_bounded(tmp_path: Path) -> None:
    store = Store(tmp_path, now=lambda: 5)
    rows = [record(f"open-{index}") for index in range(6)]
    rows += [record("closed", closed=True), record("expired", expire_time=5)]
    assert {*rows[0]} == {*SessionRecord.__dataclass_fields__}
    with store.writing() as connection:
        connection.execute(tables.sessions.insert(), rows)
    assert count_open_sessions(store) == 6
    assert count_open_sessions(store, seen=3) <= 3
    store.close()


def test_measuring_blobs_is_bounded_in_time_and_converges(tmp_path: Path) -> None:
    for index in range(8):
        (tmp_path / f"{index:02x}").mkdir()
        (tmp_path / f"{index:02x}" / "blob").write_bytes(bytes(100))
    ticks = iter(range(1000))
    sizes = BlobSizes(tmp_path, seconds=2, now=lambda: next(ticks))
    assert sizes.total() == 800  # two of eight measured, the others estimated
    assert next(ticks) == 3
    (tmp_path / "00" / "blob").write_bytes(bytes(900))
    seen = [sizes.total() for _ in range(4)]
    assert seen[-1] == 1600
    assert seen[0] != 1600


def test_metrics_are_served_while_the_store_is_missing(configure: "Configure") -> None:
    config = configure(metrics_address=free_address())
    with running_server(config):
        for path in (Path(config.store) / "blobs").iterdir():
            path.rmdir()
        (Path(config.store) / "blobs").rmdir()
        metrics = scrape(config.metrics_address)
        assert [each.labels for each in metrics["thetaprime_stored_bytes"].samples] == [{"kind": "database"}]
