"""Policies for the benchmarks: shipped ones, and an untrained one of half-cheetah's size (17 × 100 × 100 × 6)."""

import tempfile
from pathlib import Path

import numpy as np
import torch

from thetaprime.models import (
    AdaptationSpec,
    BoxAction,
    EnvironmentContract,
    MetaPolicy,
    Policy,
    PolicySpec,
    Provenance,
    load_meta_policy,
    resolve_meta_policy,
    write_meta_policy,
)
from thetaprime.wire import Trajectory

TRAJECTORIES, STEPS, OBSERVATION, ACTION = 20, 200, 17, 6


def shipped(name: str) -> MetaPolicy:
    """Loads a shipped meta-policy: it has a context, scaled actions and a noise floor, unlike the untrained one."""
    return load_meta_policy(resolve_meta_policy(name, None))


def artifact(root: Path | None = None) -> MetaPolicy:
    """Writes an untrained meta-policy of half-cheetah's size, ``benchmark/1``, into a folder."""
    folder = root or Path(tempfile.mkdtemp(prefix="thetaprime-bench-"))
    environment = EnvironmentContract(
        environment_id="benchmark",
        observation_shape=(OBSERVATION,),
        action=BoxAction(low=(-1.0,) * ACTION, high=(1.0,) * ACTION),
        horizon=STEPS,
    )
    return write_meta_policy(
        folder / "benchmark" / "1",
        name="benchmark",
        version=1,
        description="Untrained, of half-cheetah's size.",
        environment=environment,
        policy_spec=PolicySpec(),
        adaptation=AdaptationSpec(),
        parameters=Policy(environment, PolicySpec()).init(0),
        provenance=Provenance.untrained(),
        golden_observations=np.random.default_rng(0).normal(size=(8, OBSERVATION)),
    )


def trajectories(meta_policy: MetaPolicy, seed: int) -> list[Trajectory]:
    """Returns 20 trajectories of 200 steps with actions sampled from θ."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    sampled = []
    for _ in range(TRAJECTORIES):
        observations = rng.normal(size=(STEPS + 1, OBSERVATION)).astype(np.float32)
        actions = meta_policy.policy.sample(meta_policy.parameters, torch.from_numpy(observations[:-1]), generator)
        sampled.append(
            Trajectory(
                observations=observations[:-1],
                actions=actions.numpy(),
                rewards=rng.normal(size=STEPS).astype(np.float32),
                terminated=False,
                truncated=True,
                final_observation=observations[-1],
                policy_id=meta_policy.policy_id,
            )
        )
    return sampled
