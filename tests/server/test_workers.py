"""Several workers on one port and one store: each call has one outcome, at any worker and when a worker dies."""

import asyncio
import contextlib
import functools
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
import sqlalchemy as sa

from tests.support.server.metrics_page import free_address, scrape, value
from tests.support.server.supervised import DEADLINE, Channels, gone, supervised, until
from thetaprime import models, wire
from thetaprime.server import StartupError
from thetaprime.server.catalog.catalog import Catalog
from thetaprime.server.catalog.watcher import CatalogWatch
from thetaprime.server.errors import NotFoundError
from thetaprime.server.runtime.workers import fork_server as fork_server_module
from thetaprime.server.runtime.workers import pool, supervisor, worker_process
from thetaprime.server.runtime.workers.fork_server import ForkServer, ForkServerError
from thetaprime.server.runtime.workers.port import reserve_port
from thetaprime.server.runtime.workers.restarts import Restarts, WorkersError
from thetaprime.server.runtime.workers.worker_process import WorkerSpec
from thetaprime.server.store import Store, tables
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import policy_pb2
from thetaprime.v1.adaptation_service_pb2_grpc import AdaptationServiceStub

if TYPE_CHECKING:
    from tests.support.server.service import Configure, Start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux distributes the connections of one port"),
]

Collect = Callable[..., list[wire.Trajectory]]
Write = Callable[..., models.MetaPolicy]
WORKERS = 2
CUSTOMERS, ROUNDS, UPLOADS = 4, 3, 2


def upload(
    stub: AdaptationServiceStub, session: str, upload_id: str, index: int, trajectories: Sequence[wire.Trajectory]
) -> service_pb.UploadTrajectoriesResponse:
    steps = sum(len(each) for each in trajectories)
    messages = wire.iter_upload(session, upload_id, index, wire.pack(trajectories), len(trajectories), steps)
    return stub.UploadTrajectories(messages, timeout=DEADLINE)


def adapt(stub: AdaptationServiceStub, session: str, index: int, digest: str) -> service_pb.AdaptResponse:
    request = service_pb.AdaptRequest(session_id=session, expected_round=index, batch_sha256=digest)
    return stub.Adapt(request, timeout=DEADLINE)


def customer(
    address: str, number: int, collect: Collect, between: Callable[[], None] = lambda: None
) -> list[policy_pb2.Policy]:
    """Takes one customer's rounds; returns θ_1, θ_2, …, which depend on its number alone."""
    policies = []
    with Channels(address, 3, seed=number) as channels:
        request = service_pb.CreateSessionRequest(request_id=f"customer-{number}", meta_policy="point-navigation")
        created = channels.call_until_served(lambda stub: stub.CreateSession(request, timeout=DEADLINE))
        session, policy = created.session.session_id, created.policy
        for index in range(ROUNDS):
            for sent in range(UPLOADS):
                trajectories = collect(policy, seed=100 * number + 10 * index + sent)
                name = f"{index}-{sent}"
                ack = channels.call_until_served(lambda stub: upload(stub, session, name, index, trajectories))  # noqa: B023
                between()
            digest = ack.batch.sha256
            policy = channels.call_until_served(lambda stub: adapt(stub, session, index, digest)).policy  # noqa: B023
            policies.append(policy)
    return policies


def test_a_call_sent_to_two_workers_at_once_has_one_outcome(
    configure: "Configure", start: "Start", collect: Collect
) -> None:
    config = configure(workers=WORKERS)
    with (
        supervised(config) as server,
        Channels(server.address, 12) as channels,
        ThreadPoolExecutor(len(channels.stubs)) as threads,
    ):
        request = service_pb.CreateSessionRequest(request_id="r", meta_policy="point-navigation")
        created = list(threads.map(lambda stub: stub.CreateSession(request, timeout=DEADLINE), channels.stubs))
        assert len({each.session.session_id for each in created}) == 1
        session, trajectories = created[0].session.session_id, collect(created[0].policy)
        acks = list(threads.map(lambda stub: upload(stub, session, "u", 0, trajectories), channels.stubs))
        assert len({each.SerializeToString(deterministic=True) for each in acks}) == 1
        digest = acks[0].batch.sha256
        replies = list(threads.map(lambda stub: adapt(stub, session, 0, digest), channels.stubs))
        assert len({each.SerializeToString(deterministic=True) for each in replies}) == 1
        assert server.stop() == 0
        calls = [line for line in server.lines() if line["event"] == "call"]
        for method in ("CreateSession", "UploadTrajectories", "Adapt"):
            assert {line["worker"] for line in calls if line["method"].endswith(method)} == {*range(WORKERS)}, method
    with contextlib.closing(Store(config.store)) as store, store.reading() as connection:
        for table in (tables.sessions, tables.uploads, tables.policies):
            assert connection.scalar(sa.select(sa.func.count()).select_from(table)) == 1, table.name
    with start() as undisturbed:
        again = undisturbed.create()
        digest = undisturbed.upload(again.session.session_id, trajectories).batch.sha256
        assert undisturbed.adapt(again.session.session_id, 0, digest).policy == replies[0].policy


def test_clients_of_a_killed_worker_lose_nothing(configure: "Configure", start: "Start", collect: Collect) -> None:
    with (
        supervised(configure(workers=WORKERS)) as server,
        ThreadPoolExecutor(CUSTOMERS) as threads,
    ):
        # Kills the worker once all customers are in the middle of their rounds.
        middle = threading.Barrier(CUSTOMERS, action=lambda: os.kill(server.pids[0], signal.SIGKILL))
        visits = [0] * CUSTOMERS

        def disturbed(number: int) -> list[policy_pb2.Policy]:
            def between() -> None:
                visits[number] += 1
                if visits[number] == UPLOADS + 1:
                    middle.wait(DEADLINE)

            return customer(server.address, number, collect, between)

        ended = list(threads.map(disturbed, range(CUSTOMERS)))
        assert server.wait_for_line("worker ended")["status"] == -signal.SIGKILL
        server.wait_for_line("worker restarted")
        assert len(server.pids) == WORKERS
        assert server.stop() == 0
        calls = [line for line in server.lines() if line["event"] == "call"]
        assert {line["worker"] for line in calls} == {*range(WORKERS)}
    with start() as undisturbed:
        assert ended == [customer(undisturbed.address, number, collect) for number in range(CUSTOMERS)]


def test_workers_that_race_for_the_last_bytes_of_a_quota_keep_it(configure: "Configure", collect: Collect) -> None:
    quota, sessions = 1_000_000, 4
    config = configure(workers=WORKERS, max_tenant_bytes=quota)
    refused: list[str] = []

    def fill(address: str, number: int) -> int:
        """Uploads until the quota refuses; returns the number of rounds."""
        index = 0
        with Channels(address, 4, seed=number) as channels:
            try:
                request = service_pb.CreateSessionRequest(request_id=f"{number}", meta_policy="point-navigation")
                created = channels.call_until_served(lambda stub: stub.CreateSession(request, timeout=DEADLINE))
                session, policy = created.session.session_id, created.policy
                for index in range(200):
                    sent = collect(policy, seed=1000 * number + index)
                    send = functools.partial(
                        upload, session=session, upload_id=f"{index}", index=index, trajectories=sent
                    )
                    digest = channels.call_until_served(send).batch.sha256
                    step = functools.partial(adapt, session=session, index=index, digest=digest)
                    policy = channels.call_until_served(step).policy
            except grpc.RpcError as error:
                refused.append(f"{error.code()} {error.details()}")
        return index

    with supervised(config) as server:
        with ThreadPoolExecutor(sessions) as threads:
            rounds = sum(threads.map(lambda number: fill(server.address, number), range(sessions)))
        assert server.stop() == 0
    assert rounds > sessions
    assert len(refused) == sessions
    assert all("RESOURCE_EXHAUSTED" in each and "the tenant's stored bytes" in each for each in refused)
    with contextlib.closing(sqlite3.connect(Path(config.store) / "thetaprime.sqlite3")) as database:
        ((counted,),) = database.execute("SELECT bytes FROM usage").fetchall()
    assert quota / 2 < counted <= quota
    stored = [file for file in Path(config.store).rglob("*") if file.is_file() and file.name != "log"]
    assert sum(file.stat().st_size for file in stored) <= 1.1 * quota


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_all_workers_and_one_line_was_printed(configure: "Configure", number: signal.Signals) -> None:
    with supervised(configure(workers=3)) as server:
        pids = server.pids
        assert len(pids) == 3
        # The supervisor serves no calls, and must stay small.
        assert "libtorch" not in Path(f"/proc/{server.process.pid}/maps").read_text()
        server.process.send_signal(number)
        assert server.process.wait(DEADLINE) == 0
        assert server.process.stdout is not None
        assert server.process.stdout.read() == ""
        assert all(gone(pid) for pid in pids)
        lines = server.lines()
        assert [line.get("worker") for line in lines if line["event"] == "listening"] == [None]
        assert {line.get("worker") for line in lines if line["event"] == "stopped"} == {None, 0, 1, 2}


def test_workers_of_a_killed_supervisor_end_and_release_the_port(configure: "Configure") -> None:
    with supervised(configure(workers=WORKERS)) as server:
        pids = server.pids
        server.process.kill()
        until(lambda: all(gone(pid) for pid in pids))
    host, port = server.address.split(":")
    with socket.socket() as free:
        free.bind((host, int(port)))
        assert free.getsockname()[1] == int(port)


def test_a_worker_that_keeps_failing_ends_the_server(configure: "Configure", write_point_artifact: Write) -> None:
    config = configure(workers=WORKERS)
    zoo = Path(config.store).with_name(Path(config.store).name + "-zoo")
    write_point_artifact(zoo)
    with supervised(config.model_copy(update={"zoo": (zoo,)})) as server:
        pids = server.pids
        (zoo / "point-navigation" / "1" / "manifest.json").write_text("{}")
        os.kill(pids[0], signal.SIGKILL)
        assert server.process.wait(DEADLINE) == 1
        until(lambda: all(gone(pid) for pid in pids))
    last = server.log.read_text().splitlines()[-1]
    assert "WorkersError: worker " in last
    assert "ended 4 times in a row" in last
    assert (
        "manifest.json" in next(line for line in server.lines() if line["event"] == "worker did not start")["problem"]
    )


def test_workers_that_cannot_start_report_the_reason(configure: "Configure", tmp_path: Path) -> None:
    with supervised(configure(workers=WORKERS, tls_certificate=tmp_path / "nowhere")) as server:
        assert server.address == ""
        assert server.process.wait(DEADLINE) == 1
    assert "StartupError: tls-certificate" in server.log.read_text().splitlines()[-1]


def test_an_address_of_other_workers_is_refused(configure: "Configure") -> None:
    with supervised(configure(workers=WORKERS)) as server:
        with supervised(configure(workers=WORKERS, address=server.address)) as second:
            assert second.process.wait(DEADLINE) == 1
        assert f"StartupError: address {server.address}" in second.log.read_text().splitlines()[-1]


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "0.0.0.0:0"])
def test_a_reserved_port_is_free_only_for_sockets_that_share_it(address: str) -> None:
    with reserve_port(address) as taken:
        host, _, port = taken.rpartition(":")
        assert host == address.rpartition(":")[0]
        with socket.socket() as alone, pytest.raises(OSError, match="in use"):
            alone.bind(("127.0.0.1", int(port)))
        with pytest.raises(StartupError, match=f"address {taken}: cannot listen"), reserve_port(taken):
            pass
        for _ in range(2):
            shared = socket.socket()
            shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            with shared:
                shared.bind(("127.0.0.1", int(port)))
                shared.listen()
    with socket.socket() as free:
        free.bind(("127.0.0.1", int(port)))


def test_a_port_is_reserved_beside_closed_connections_and_refused_beside_a_listener() -> None:
    with socket.socket() as earlier:
        earlier.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        earlier.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        earlier.bind(("127.0.0.1", 0))
        earlier.listen()
        address = f"127.0.0.1:{earlier.getsockname()[1]}"
        with socket.create_connection(earlier.getsockname()) as client:
            # The side that closes first keeps the connection in TIME_WAIT.
            earlier.accept()[0].close()
            assert client.recv(1) == b""
        with pytest.raises(StartupError, match="cannot listen"), reserve_port(address):
            pass
    for _ in range(2):
        with reserve_port(address):
            with pytest.raises(StartupError, match="cannot listen"), reserve_port(address):
                pass
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                other.bind(("127.0.0.1", int(address.rpartition(":")[2])))
                other.listen()
            shared = socket.socket()
            shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            with shared:
                shared.bind(("127.0.0.1", int(address.rpartition(":")[2])))
                shared.listen()


@pytest.mark.parametrize("address", ["127.0.0.1", "unix:/tmp/socket", "127.0.0.1:x", "127.0.0.1:70000", ":1"])
def test_an_address_that_cannot_be_shared_is_refused(address: str) -> None:
    with pytest.raises(StartupError, match=f"address {address}"), reserve_port(address):
        pass


@pytest.mark.slow
def test_a_worker_that_hangs_is_replaced_and_counted(configure: "Configure") -> None:
    config = configure(workers=WORKERS, metrics_address=free_address())
    with supervised(config) as server:
        os.kill(server.pids[0], signal.SIGSTOP)
        assert server.wait_for_line("worker hangs")["worker"] == 0
        server.wait_for_line("worker restarted")
        assert value(scrape(config.metrics_address), "thetaprime_worker_ends_total", reason="hung") == 1
        assert server.stop() == 0


# The first worker 0 sends no beats, the second one does not get ready; worker 1 and the third worker 0 serve.
WORKER = """
import json, os, pathlib, sys, time
def main():
    worker = json.loads(sys.stdin.buffer.readline())["worker"]
    starts = pathlib.Path("starts")
    with starts.open("a") as file:
        file.write(str(worker))
    start = starts.read_text().count("0")
    if worker == 0 and start == 2:
        time.sleep(3600)
    os.write(1, b'{"problem": ""}' + bytes([10]))
    if worker == 0 and start == 1:
        time.sleep(3600)
    while True:
        os.write(1, bytes([10]))
        time.sleep(0.02)
"""


@pytest.fixture
def fork_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Callable[..., ForkServer]]:
    """Writes a module, and returns a fork server whose workers run its `main`."""

    def write(text: str) -> Callable[..., ForkServer]:
        (tmp_path / "another_worker.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
        return functools.partial(ForkServer, module="another_worker")

    return write


def test_workers_that_hang_while_serving_and_while_starting_are_replaced(
    configure: "Configure",
    fork_module: Callable[[str], Callable[..., ForkServer]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    starts = tmp_path / "starts"
    starts.touch()
    monkeypatch.chdir(tmp_path)
    make_fork_server = fork_module(WORKER)
    monkeypatch.setattr(worker_process, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(pool, "_RESTART_SECONDS", 1.0)
    config = configure(workers=WORKERS, metrics_address=free_address())

    async def run() -> None:
        stop_event = asyncio.Event()
        with make_fork_server(has_metrics=True) as fork_server:
            serving = asyncio.create_task(supervisor.supervise(config, stop_event, lambda _: None, fork_server))
            async with asyncio.timeout(DEADLINE):
                while starts.read_text().count("0") < 3:
                    await asyncio.sleep(0.02)
            metrics = await asyncio.to_thread(scrape, config.metrics_address)
            stop_event.set()
            await serving
        # A worker that does not get ready has ended; one that serves and sends no beat has hung.
        assert value(metrics, "thetaprime_worker_ends_total", reason="hung") == 1
        assert value(metrics, "thetaprime_worker_ends_total", reason="ended") == 1

    asyncio.run(run())
    assert starts.read_text().count("1") == 1


@pytest.mark.parametrize(("beats", "at_end", "hangs"), [(30, "time.sleep(60)", True), (3, "pass", False)])
def test_a_worker_hangs_when_it_has_missed_ten_beats_in_a_row(
    configure: "Configure",
    fork_module: Callable[[str], Callable[..., ForkServer]],
    monkeypatch: pytest.MonkeyPatch,
    beats: int,
    at_end: str,
    hangs: bool,
) -> None:
    monkeypatch.setattr(worker_process, "BEAT_SECONDS", 0.02)
    make_fork_server = fork_module(f"""
import os, time
def main():
    os.write(1, b'{{"problem": ""}}' + b"\\n")
    for _ in range({beats}):
        os.write(1, b"\\n")
        time.sleep(0.05)  # two or three missed beats in a row
    {at_end}
    return 0
""")

    async def run() -> bool:
        with make_fork_server() as fork_server:
            worker = await worker_process.WorkerProcess.start(WorkerSpec(0, configure()), {}, fork_server)
            await worker.wait_until_ready()
            started = time.monotonic()
            result = await worker.hangs()
            assert time.monotonic() - started > 0.04 * beats
            worker.kill()
            assert await worker.wait() == (-signal.SIGKILL if hangs else 0)
        return result

    assert asyncio.run(run()) is hangs


def test_a_fork_server_that_cannot_import_a_worker_says_so(
    fork_module: Callable[[str], Callable[..., ForkServer]], configure: "Configure"
) -> None:
    make_fork_server = fork_module("import sys; sys.exit(3)")

    async def run() -> None:
        with make_fork_server() as fork_server, pytest.raises(StartupError, match="starts workers ended"):
            await worker_process.WorkerProcess.start(WorkerSpec(0, configure()), {}, fork_server)

    asyncio.run(run())


def test_another_system_than_linux_has_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")

    async def run() -> None:
        with pytest.raises(ForkServerError, match="need Linux, and this is darwin; expected 1"), ForkServer():
            pass

    asyncio.run(run())


def test_workers_are_copies_of_a_process_that_may_be_killed(configure: "Configure") -> None:
    with supervised(configure(workers=WORKERS)) as server:
        first = server.fork_server
        assert "libtorch" in Path(f"/proc/{first}/maps").read_text()
        commands = {Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (first, *server.pids)}
        assert len(commands) == 1
        os.kill(first, signal.SIGKILL)
        os.kill(server.pids[0], signal.SIGKILL)
        server.wait_for_line("worker restarted")
        assert server.fork_server != first
        assert len(server.pids) == WORKERS
        with Channels(server.address, 4) as channels:
            request = service_pb.CreateSessionRequest(request_id="r", meta_policy="point-navigation")
            for stub in channels.stubs:
                assert stub.CreateSession(request, timeout=DEADLINE).session.session_id
        assert server.stop() == 0


def test_a_fork_server_that_hangs_is_replaced(
    fork_module: Callable[[str], Callable[..., ForkServer]], configure: "Configure", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_server_module, "_REPLY_SECONDS", 0.2)
    make_fork_server = fork_module("def main(): return 0")

    async def run() -> None:
        with make_fork_server() as fork_server:
            for number in range(2):
                worker = await worker_process.WorkerProcess.start(WorkerSpec(number, configure()), {}, fork_server)
                assert await worker.wait() == 0
                os.kill(fork_server.pid, signal.SIGSTOP)

    asyncio.run(run())


def test_what_workers_are_copies_of_has_one_thread() -> None:
    program = "import os, thetaprime.server.runtime.workers.worker; print(len(os.listdir('/proc/self/task')))"
    # OpenBLAS ends its threads before a fork, and starts them again in both processes.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=True, text=True, timeout=DEADLINE
    )
    assert done.stdout.strip() == "1"


def test_a_worker_has_the_settings_of_its_spec_and_not_of_its_environment(
    configure: "Configure", monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("THETAPRIME_SERVER_QUEUE", "3")
    config = configure(workers=WORKERS, max_tenant_steps=5)
    monkeypatch.setenv("THETAPRIME_SERVER_QUEUE", "4")
    monkeypatch.setenv("THETAPRIME_SERVER_CONFIG", str(tmp_path / "gone.toml"))
    assert WorkerSpec.from_line(WorkerSpec(1, config).to_line()) == WorkerSpec(1, config)


def test_a_worker_whose_supervisor_has_stopped_before_its_spec_ends_quietly() -> None:
    code = "from thetaprime.server.runtime.workers.worker import main; raise SystemExit(main())"
    for sent in (b"", b'{"worker": 1, "con'):
        result = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=False, timeout=60)
        assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_restarts_are_delayed_more_each_time_and_then_stop() -> None:
    now = 0.0
    restarts = Restarts(clock=lambda: now)
    delays = []
    for lived in (100.0, 1.0, 1.0, 100.0, 1.0, 1.0):
        restarts.record_start()
        now += lived
        delays.append(restarts.next_delay(7, -9))
    assert delays == [0.0, 0.5, 1.0, 0.0, 0.5, 1.0]
    restarts.record_start()
    with pytest.raises(WorkersError, match=r"worker 7 ended 4 times in a row within 10 s, .* status -9"):
        restarts.next_delay(7, -9)


def test_a_worker_finds_a_version_that_another_worker_added_first(tmp_path: Path, write_point_artifact: Write) -> None:
    write_point_artifact(tmp_path, version=1)
    catalogs = [Catalog.load([tmp_path]) for _ in range(2)]
    counts: list[float] = []
    first, _ = [CatalogWatch(catalog, [tmp_path], counts.append) for catalog in catalogs]
    write_point_artifact(tmp_path, version=2)
    first.scan()
    found = [catalog.recall("point-navigation", 2).message.version for catalog in catalogs]
    assert found == [2, 2]
    assert counts == [1, 1, 2, 2]
    # A version that does not exist is not searched at every call.
    for _ in range(3):
        with pytest.raises(NotFoundError):
            catalogs[1].recall("point-navigation", 9)
    assert len(counts) == 4
