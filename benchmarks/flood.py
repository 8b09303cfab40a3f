"""Compares one tenant's rounds during another tenant's flood with its rounds on an idle server."""

import asyncio
import contextlib
import hashlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np

from benchmarks.measure import Row, machine
from benchmarks.policies import STEPS, TRAJECTORIES, artifact, trajectories
from thetaprime import wire
from thetaprime.cli._server_process import server_process
from thetaprime.client import Client
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1.adaptation_service_pb2_grpc import AdaptationServiceStub
from thetaprime.wire import Trajectory

_QUIET, _FLOODING = "theta_quiet", "theta_flooding"
QUEUE: Final = 64
"""Steps of one tenant that may wait; the server's default."""
_BLOCKS: Final = 8
_ROUNDS: Final = 12
_SETTLE_SECONDS: Final = 2.0


def rows() -> list[Row]:
    """Measures 95th percentiles from `session.upload` to a loaded θ′, in alternating blocks with and without flood."""
    root = Path(tempfile.mkdtemp(prefix="thetaprime-bench-"))
    meta_policy = artifact(root)
    collected = [trajectories(meta_policy, seed) for seed in range(3)]
    alone: list[float] = []
    flooded: list[float] = []
    options = ("--zoo", str(root), "--tokens", str(_tokens(root)), "--queue", str(QUEUE))
    with (
        server_process(*options) as server,
        Client(address := server.address(), token=_QUIET) as client,
        _flood(address, wire.pack(collected[0])) as (flooding, taken),
    ):
        _rounds(client, collected, 4)
        for _ in range(_BLOCKS):
            alone += _rounds(client, collected, _ROUNDS)
            flooding.set()
            time.sleep(_SETTLE_SECONDS)
            flooded += _rounds(client, collected, _ROUNDS)
            flooding.clear()
            time.sleep(_SETTLE_SECONDS)
        if taken.value < _BLOCKS * _ROUNDS:
            raise RuntimeError(f"the other tenant took only {taken.value} rounds: its flood was too weak")
    ours, reference = _p95(flooded), _p95(alone)
    name = "p95 of one tenant's round, another tenant's queue full / alone"
    return [Row(name, ours, reference, "ms", ours / reference, 2.0, ours / reference <= 2.0, machine())]


def _rounds(client: Client, collected: list[list[Trajectory]], count: int) -> list[float]:
    """Returns the duration of each of `count` rounds, in milliseconds."""
    times = []
    for number in range(count):
        session = client.create_session("benchmark")
        started = time.perf_counter()
        session.upload(collected[number % len(collected)])
        action = session.adapt().act(np.zeros(17, np.float32))
        times.append((time.perf_counter() - started) * 1e3)
        if not np.isfinite(action).all():
            raise RuntimeError("the adapted policy does not act")
        session.close()
    return times


def _p95(times: list[float]) -> float:
    return float(np.percentile(times, 95))


def _tokens(root: Path) -> Path:
    file = root / "tokens.toml"
    digests = {tenant: hashlib.sha256(token.encode()).hexdigest() for tenant, token in _TENANTS.items()}
    file.write_text("".join(f'[[tokens]]\ntenant = "{name}"\nsha256 = "{sha}"\n' for name, sha in digests.items()))
    return file


_TENANTS: Final = {"quiet": _QUIET, "flooding": _FLOODING}


@contextlib.contextmanager
def _flood(address: str, payload: bytes) -> "Iterator[tuple[Event, Synchronized[int]]]":
    """Starts a process that floods the server while the event is set; yields the event and its count of rounds."""
    context = multiprocessing.get_context("spawn")
    going, over, taken = context.Event(), context.Event(), context.Value("q")
    process = context.Process(target=_run_flood, args=(address, payload, going, over, taken), daemon=True)
    process.start()
    try:
        yield going, taken
    finally:
        over.set()
        process.join()


def _run_flood(address: str, payload: bytes, going: Event, over: Event, taken: "Synchronized[int]") -> None:
    # A real flood comes from other machines: it must load the server's slots, not this machine's processors.
    os.nice(19)
    asyncio.run(_send_all(address, payload, going, over, taken))


async def _send_all(address: str, payload: bytes, going: Event, over: Event, taken: "Synchronized[int]") -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = AdaptationServiceStub(channel)
        # Fills the queue and every thread, with some senders to spare, whose calls are refused.
        senders = QUEUE + (os.cpu_count() or 1) + 8
        await asyncio.gather(*(_send(stub, payload, number, going, over, taken) for number in range(senders)))


async def _send(stub: Any, payload: bytes, number: int, going: Event, over: Event, taken: "Synchronized[int]") -> None:
    """Takes rounds until the event `over`, at the least cost to the sender."""
    metadata = (("authorization", f"Bearer {_FLOODING}"),)
    sent = 0
    while not over.is_set():
        if not going.is_set():
            await asyncio.sleep(0.02)
            continue
        sent += 1
        request = service_pb.CreateSessionRequest(request_id=f"{number}-{sent}", meta_policy="benchmark")
        with contextlib.suppress(grpc.RpcError):
            session = (await stub.CreateSession(request, metadata=metadata)).session.session_id
            messages = wire.iter_upload(session, "u", 0, payload, TRAJECTORIES, TRAJECTORIES * STEPS)
            batch = (await stub.UploadTrajectories(messages, metadata=metadata)).batch
            adapt = service_pb.AdaptRequest(session_id=session, batch_sha256=batch.sha256)
            await stub.Adapt(adapt, metadata=metadata)
            taken.value += 1
