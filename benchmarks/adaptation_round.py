"""Compares one durable round over loopback, 20 × 200 half-cheetah-sized steps, with the bare gradient and torch."""

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import sqlalchemy as sa
import torch

from benchmarks.export import traced
from benchmarks.gradient import bare_gradient
from benchmarks.measure import Row, compare, machine, timed
from benchmarks.policies import artifact, shipped, trajectories
from benchmarks.process import cpu_seconds
from benchmarks.verdicts.environments import make_environment
from thetaprime import wire
from thetaprime.cli._server_process import server_process
from thetaprime.client import AdaptedPolicy, Client, collect
from thetaprime.models import (
    ForwardPass,
    InnerStep,
    MetaPolicy,
    TrajectoryBatch,
    adapt_step,
    behavior_evidence,
    forward_pass,
    inner_advantages,
    moving_parameters,
    summarize_step,
    trajectory_contributions,
)
from thetaprime.models.verdict import StepOptions, next_step
from thetaprime.server.catalog.catalog import policy_message, wire_contract
from thetaprime.server.runtime.tuning import keep_freed_memory
from thetaprime.server.sessions.uploads import trajectory_batch
from thetaprime.server.store import Store, tables

SESSIONS = 64
SHIPPED = "half-cheetah-velocity"
EPISODES = 20
WARMUP = 16
VERDICT_SHARE = 0.15
"""Largest share of a round's processor time that its verdict may take."""


def rows() -> list[Row]:
    """Measures `session.upload` to a loaded θ′, each time in a new session of a server in another process."""
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp(prefix="thetaprime-bench-"))
    meta_policy = artifact(root)
    collected = [trajectories(meta_policy, seed) for seed in range(4)]
    batch = trajectory_batch(collected[0])
    gradient_of = bare_gradient(meta_policy, batch)

    def run_without_service() -> None:
        gradient = gradient_of()
        traced(meta_policy, {name: value - 0.1 * gradient[name] for name, value in meta_policy.parameters.items()})

    with server_process("--zoo", str(root)) as server, Client(server.address()) as client:
        # Sessions are opened before the measurement, which covers the round alone.
        sessions = iter([client.create_session("benchmark") for _ in range(SESSIONS)])
        turns = itertools.cycle(collected)

        def one_round() -> None:
            session = next(sessions)
            session.upload(next(turns))
            action = session.adapt().act(np.zeros(17, np.float32))
            if not np.isfinite(action).all():
                raise RuntimeError("the adapted policy does not act")

        name = "one adaptation round, upload to loaded θ′"
        # The first rounds warm up the server's threads and memory.
        for _ in range(16):
            one_round()
        row = compare(f"{name} / bare gradient", one_round, gradient_of, budget=2.5, rounds=30)
        other = compare(
            f"{name} / gradient and torch.onnx.export", one_round, run_without_service, budget=1 / 30, rounds=8
        )
    parts = {part: timed(run, rounds=30) for part, run in _parts(root, meta_policy, collected[0], batch).items()}
    parts["wire, threads and queries"] = row.ours - sum(parts.values())
    return [dataclasses.replace(row, parts=parts), other, _verdict_row()]


def _verdict_row() -> Row:
    """Compares the processor time of a verdict with that of a round, upload to loaded θ′, of client and server.

    The policy is a shipped one, and its episodes are those of its simulator: an untrained policy has no calibration,
    and random episodes are those of an unfamiliar task. The verdict's time is that of the session's step less that of
    the inner loop's step, its report and its contributions, measured alternately.
    """
    meta_policy = shipped(SHIPPED)
    with server_process() as server, Client(server.address()) as client:
        sessions = [client.create_session(SHIPPED) for _ in range(SESSIONS)]
        env = make_environment(SHIPPED, [1.2] * EPISODES)
        collected = [collect(sessions[0].policy, env, EPISODES, seed=seed) for seed in range(4)]
        started = 0.0
        for number, session in enumerate(sessions):
            if number == WARMUP:
                started = time.process_time() + cpu_seconds(server.pid)
            session.upload(collected[number % len(collected)])
            session.adapt().act(np.zeros(17, np.float32))
        spent = time.process_time() + cpu_seconds(server.pid) - started
    round_time = 1e3 * spent / (SESSIONS - WARMUP)

    keep_freed_memory()  # as the server does
    policy, theta, adaptation = meta_policy.policy, meta_policy.parameters, meta_policy.manifest.adaptation
    batch = trajectory_batch(collected[0])
    moving = moving_parameters(theta, adaptation, meta_policy.step_sizes)

    def step_alone(forward: ForwardPass) -> InnerStep:
        sizes = meta_policy.step_sizes
        step = adapt_step(policy, theta, batch, adaptation, step=0, step_sizes=sizes, forward=forward)
        summarize_step(policy, theta, step, batch)
        return step

    def step_with_verdict(forward: ForwardPass) -> InnerStep:
        return next_step(meta_policy, [], batch, theta, lambda number: theta, StepOptions(), forward=forward).inner

    times: dict[Callable[[ForwardPass], InnerStep], list[float]] = {step_alone: [], step_with_verdict: []}
    for _ in range(SESSIONS):
        for function, found in times.items():
            forward = forward_pass(policy, theta, batch, moving)
            started = time.process_time()
            trajectory_contributions(policy, theta, batch, function(forward))
            found.append(1e3 * (time.process_time() - started))
    verdict = median(times[step_with_verdict]) - median(times[step_alone])
    share = verdict / round_time
    name = f"verdict / round, processor time of client and server, {SHIPPED}"
    return Row(name, verdict, round_time, "ms", share, VERDICT_SHARE, share <= VERDICT_SHARE, machine())


def _parts(
    root: Path, meta_policy: MetaPolicy, collected: list[wire.Trajectory], batch: TrajectoryBatch
) -> dict[str, Callable[[], object]]:
    """Returns the parts of a round, to be measured separately in this process."""
    policy, parameters, adaptation = meta_policy.policy, meta_policy.parameters, meta_policy.manifest.adaptation
    contract = wire_contract(policy.environment)
    payload = wire.pack(collected)
    store = Store(root / "store")
    forward = forward_pass(policy, parameters, batch, parameters)
    outputs = forward.values
    step = adapt_step(policy, parameters, batch, adaptation, step=0, forward=forward)
    exported = meta_policy.export(step.parameters)
    message = policy_message(exported)
    numbers = itertools.count()

    def store_blob(data: bytes) -> None:
        numbered = next(numbers).to_bytes(8, "little") + data
        blobs = {wire.sha256_hex(numbered): numbered}
        with store.writing() as connection:
            store.keep(connection, blobs)
            connection.execute(sa.select(tables.sessions)).all()

    def store_both() -> None:
        store_blob(payload)
        store_blob(exported.onnx)

    def checks() -> None:
        trajectories = list(wire.unpack(payload))
        for each in trajectories:
            wire.validate(each, contract)
        behavior_evidence(policy, parameters, trajectory_batch(trajectories), outputs)

    def serialize() -> None:
        for each in collected:
            wire.validate(each, contract)
        wire.pack(collected)

    return {
        "serialize": serialize,
        "digests": lambda: [wire.sha256_hex(payload) for _ in range(2)],
        "checks": checks,
        "store": store_both,
        "advantages": lambda: inner_advantages(policy, batch, adaptation),
        "gradient": lambda: adapt_step(
            policy, parameters, batch, adaptation, step=0, advantage=torch.ones(len(batch.rewards))
        ),
        "report": lambda: summarize_step(policy, parameters, step, batch),
        "contributions": lambda: trajectory_contributions(policy, parameters, batch, step),
        "ONNX": lambda: meta_policy.export(step.parameters),
        "load": lambda: AdaptedPolicy.from_message(message),
    }
