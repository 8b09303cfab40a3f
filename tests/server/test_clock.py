"""A clock that jumped ahead deletes nothing until it has been ahead for an hour."""

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.server.supervised import until
from thetaprime import wire
from thetaprime.server import running_server
from thetaprime.server.store import ClockGuard, Store

if TYPE_CHECKING:
    from tests.support.server.service import Configure, Connect

HOUR = 3600.0
DAY = 24 * HOUR


class Clocks:
    """The system's clock and a monotonic clock, in seconds."""

    def __init__(self) -> None:
        self.system, self.monotonic = 1e9, 0.0

    def now(self) -> int:
        return round(self.system * 1e6)

    def wait(self, seconds: float) -> None:
        self.system += seconds
        self.monotonic += seconds


@contextlib.contextmanager
def guarded(folder: Path, clocks: Clocks) -> Iterator[ClockGuard]:
    with contextlib.closing(Store(folder, now=clocks.now)) as store:
        yield ClockGuard(store, monotonic=lambda: clocks.monotonic)


def test_a_clock_is_trusted_while_it_runs_and_after_an_hour_ahead(tmp_path: Path) -> None:
    clocks = Clocks()
    with guarded(tmp_path, clocks) as guard:
        for _ in range(10):
            assert guard.trusts_clock()
            clocks.wait(600)
        clocks.system += 2 * DAY
        for _ in range(6):
            assert not guard.trusts_clock()
            clocks.wait(601)
        assert guard.trusts_clock()
        clocks.wait(600)
        assert guard.trusts_clock()


def test_a_clock_that_is_corrected_in_time_was_never_trusted(tmp_path: Path) -> None:
    clocks = Clocks()
    with guarded(tmp_path, clocks) as guard:
        assert guard.trusts_clock()
        clocks.system += 2 * DAY
        assert not guard.trusts_clock()
        clocks.wait(0.9 * HOUR)
    # A restart starts the hour again.
    with guarded(tmp_path, clocks) as guard:
        assert not guard.trusts_clock()
        clocks.wait(0.9 * HOUR)
        assert not guard.trusts_clock()
        clocks.system -= 2 * DAY + 1.7 * HOUR
        assert guard.trusts_clock()
        clocks.system += DAY
        assert not guard.trusts_clock()


def test_a_store_without_the_table_gets_it(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "thetaprime.sqlite3")) as connection:
        connection.execute("DROP TABLE clock")
        connection.commit()
    with guarded(tmp_path, Clocks()) as guard:
        assert guard.trusts_clock()


def test_a_server_that_starts_with_a_clock_two_days_ahead_keeps_acknowledged_uploads(
    configure: "Configure",
    connect: "Connect",
    collect: Callable[..., list[wire.Trajectory]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = configure(default_ttl=DAY)
    with running_server(config) as address, connect(address) as service:
        created = service.create()
        session_id = created.session.session_id
        before = service.upload(session_id, collect(created.policy), upload_id="u")
        until(lambda: last_sweep(Path(config.store)))
    last = last_sweep(Path(config.store))
    actual = time.time_ns
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time_ns", lambda: actual() + round(2 * DAY * 1e9))
        checked: list[bool] = []
        trusts_clock = ClockGuard.trusts_clock

        def record(guard: ClockGuard) -> bool:
            checked.append(trusts_clock(guard))
            return checked[-1]

        ahead.setattr(ClockGuard, "trusts_clock", record)
        with running_server(config):
            until(lambda: checked)
    assert last_sweep(Path(config.store)) == last
    with running_server(config) as address, connect(address) as service:
        assert service.get(session_id).session.round == 0
        assert service.adapt(session_id, 0, before.batch.sha256).policy.onnx


def last_sweep(folder: Path) -> int:
    with contextlib.closing(sqlite3.connect(folder / "thetaprime.sqlite3")) as connection:
        return int((connection.execute("SELECT last_sweep FROM clock").fetchone() or (0,))[0])
