"""Compares one durable round over loopback, 20 × 200 half-cheetah-sized steps, with the bare gradient and torch."""

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.export import traced
from benchmarks.gradient import bare_gradient
from benchmarks.measure import Row, compare, machine
from benchmarks.policies import artifact, shipped, trajectories
from benchmarks.process import cpu_seconds
from benchmarks.round_parts import CLIENT, Note, new_file, noted_calls, read_notes, round_parts, server_command
from benchmarks.verdicts.environments import make_environment
from thetaprime import wire
from thetaprime.cli._server_process import server_process
from thetaprime.client import Client, collect
from thetaprime.models import (
    ForwardPass,
    InnerStep,
    adapt_step,
    forward_pass,
    moving_parameters,
    summarize_step,
    trajectory_contributions,
)
from thetaprime.models.verdict import StepOptions, next_step
from thetaprime.server.runtime.tuning import keep_freed_memory
from thetaprime.server.sessions.uploads import trajectory_batch

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
    return [dataclasses.replace(row, parts=_parts(root, collected)), other, _verdict_row()]


def _parts(root: Path, collected: Sequence[list[wire.Trajectory]]) -> dict[str, float]:
    """Measures the parts of the same round, with a server that notes when its functions begin and end."""
    path, notes, rounds = new_file(), list[Note](), list[tuple[float, float]]()
    with (
        server_process("--zoo", str(root), command=server_command(path)) as server,
        Client(server.address()) as client,
    ):
        sessions = [client.create_session("benchmark") for _ in range(SESSIONS)]
        with noted_calls(CLIENT, notes):
            for number, session in enumerate(sessions):
                start = time.perf_counter()
                session.upload(collected[number % len(collected)])
                session.adapt().act(np.zeros(17, np.float32))
                rounds.append((start, time.perf_counter()))
    return round_parts(rounds[WARMUP:], [*notes, *read_notes(path)])


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
