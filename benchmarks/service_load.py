"""Measures one server under many clients: processor time per round, fairness, and refused calls."""

import dataclasses
import multiprocessing
import multiprocessing.connection
import re
import socket
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from statistics import median

import grpc
import torch

from benchmarks.gradient import bare_gradient
from benchmarks.measure import Row, machine
from benchmarks.policies import artifact, trajectories
from benchmarks.process import cpu_seconds, cpu_seconds_of_main_thread
from thetaprime.cli._server_process import server_process
from thetaprime.client import CHANNEL_OPTIONS, Client
from thetaprime.models import load_meta_policy
from thetaprime.server.sessions.uploads import trajectory_batch

CLIENTS, ROUNDS = 64, 6


def rows() -> list[Row]:
    """Runs 64 clients in a separate process, each with a separate connection and six rounds.

    The server's processor time is compared with that of the bare gradient, measured repeatedly meanwhile: noise of the
    machine slows both.
    """
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp(prefix="thetaprime-bench-"))
    meta_policy = artifact(root)
    gradient = bare_gradient(meta_policy, trajectory_batch(trajectories(meta_policy, 0)))
    gradient()
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    metrics = f"127.0.0.1:{_free_port()}"
    with server_process("--zoo", str(root), "--metrics-address", metrics) as server:
        load = context.Process(target=_load, args=(server.address(), root, there))
        load.start()
        there.close()
        here.recv()  # sessions and connections are open
        before, bare = cpu_seconds(server.pid), []
        loop_before = cpu_seconds_of_main_thread(server.pid)
        here.send("go")
        while not here.poll(0.2):
            started = time.process_time()
            gradient()
            bare.append(time.process_time() - started)
        spent = cpu_seconds(server.pid) - before
        looped = cpu_seconds_of_main_thread(server.pid) - loop_before
        seconds: list[float] = here.recv()
        load.join()
        refused = _refused(metrics)
    rounds = CLIENTS * ROUNDS
    per_round, of_gradient, loop = spent / rounds * 1e3, median(bare) * 1e3, looped / rounds * 1e3
    threads = {"event loop: calls, log, metrics": loop, "threads: verification, step, rows": per_round - loop}
    slowest, middle = max(seconds), median(seconds)
    what = f"{CLIENTS} clients at once"
    calls = 2 * rounds
    load_row = _row(f"{what}: processor time of a round / of the bare gradient", per_round, of_gradient, "ms", 2.0)
    return [
        dataclasses.replace(load_row, parts=threads),
        _row(f"{what}: rounds of the slowest / of the median client", slowest, middle, "s", 3.0),
        _row(f"{what}: refused calls / calls", refused, calls, "calls", 0.0),
    ]


def _row(name: str, ours: float, reference: float, unit: str, budget: float) -> Row:
    return Row(name, ours, reference, unit, ours / reference, budget, ours / reference <= budget, machine())


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _refused(metrics: str) -> float:
    with urllib.request.urlopen(f"http://{metrics}/metrics") as page:  # the server started here
        text = page.read().decode()
    return sum(float(value) for value in re.findall(r"^thetaprime_refusals_total\{.*\} (\S+)$", text, re.MULTILINE))


def _load(address: str, root: Path, parent: "multiprocessing.connection.Connection") -> None:
    """Runs the clients, and sends the seconds that each took for its rounds to the parent."""
    torch.set_num_threads(1)
    collected = [trajectories(load_meta_policy(root / "benchmark" / "1"), seed) for seed in range(4)]
    options = [*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.insecure_channel(address, options=options) for _ in range(CLIENTS)]
    clients = [Client(address, channel=channel, timeout=600.0) for channel in channels]
    # One session per round, opened before the measurement: the trajectories are on-policy for θ only.
    sessions = [[client.create_session("benchmark") for _ in range(ROUNDS)] for client in clients]
    seconds = [0.0] * CLIENTS
    at_once = threading.Barrier(CLIENTS)

    def adapt(number: int) -> None:
        at_once.wait()
        started = time.perf_counter()
        for turn, session in enumerate(sessions[number]):
            session.upload(collected[(number + turn) % len(collected)])
            session.adapt()
        seconds[number] = time.perf_counter() - started

    threads = [threading.Thread(target=adapt, args=(number,)) for number in range(CLIENTS)]
    parent.send("ready")
    parent.recv()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    parent.send(seconds)
