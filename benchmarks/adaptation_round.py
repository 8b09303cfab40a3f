"""One durable round over loopback, 20 × 200 half-cheetah-sized steps, against the bare gradient."""

import itertools
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.gradient import bare_gradient
from benchmarks.measure import Row, compare
from benchmarks.policies import artifact, trajectories
from thetaprime.cli._server_process import server_process
from thetaprime.client import Client


def rows() -> list[Row]:
    """From `session.upload` to a loaded θ′, each time in a new session of a server in another process."""
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp(prefix="thetaprime-bench-"))
    meta_policy = artifact(root)
    collected = [trajectories(meta_policy, seed) for seed in range(4)]
    gradient = bare_gradient(meta_policy, collected[0])

    with server_process("--zoo", str(root)) as server, Client(server.address()) as client:
        # Sessions are opened beforehand: a round is what is measured.
        sessions = iter([client.create_session("benchmark") for _ in range(24)])
        turns = itertools.cycle(collected)

        def one_round() -> None:
            session = next(sessions)
            session.upload(next(turns))
            action = session.adapt().act(np.zeros(17, np.float32))
            if not np.isfinite(action).all():
                raise RuntimeError("the adapted policy does not act")

        row = compare(
            "one adaptation round, upload to loaded θ′ / bare gradient",
            one_round,
            gradient,
            budget=2.5,
            rounds=20,
        )
    return [row]
