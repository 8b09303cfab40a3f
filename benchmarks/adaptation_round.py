"""One durable round over loopback, 20 × 200 half-cheetah-sized steps, against the bare gradient."""

import itertools
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Row, compare
from benchmarks.policies import artifact, trajectories
from thetaprime.cli._server_process import server_process
from thetaprime.client import Client
from thetaprime.models import TrajectoryBatch, inner_advantages, reinforce_loss


def rows() -> list[Row]:
    """From `session.upload` to a loaded θ′, each time in a new session of a server in another process."""
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp(prefix="thetaprime-bench-"))
    meta_policy = artifact(root)
    collected = [trajectories(meta_policy, seed) for seed in range(4)]
    batch = TrajectoryBatch.concatenate(
        [each.observations for each in collected[0]],
        [each.actions for each in collected[0]],
        [each.rewards for each in collected[0]],
        [each.terminated for each in collected[0]],
        [each.final_observation for each in collected[0]],
    )
    advantage = inner_advantages(meta_policy.policy, batch, meta_policy.manifest.adaptation)

    def bare_gradient() -> None:
        leaves = {name: value.clone().requires_grad_() for name, value in meta_policy.parameters.items()}
        loss = reinforce_loss(leaves, meta_policy.policy, batch, advantage)
        torch.autograd.grad(loss, list(leaves.values()))

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
            bare_gradient,
            budget=2.5,
            rounds=20,
        )
    return [row]
