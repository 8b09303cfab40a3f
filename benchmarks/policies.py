"""Half-cheetah-sized policies and trajectories: 17 observations, 6 actions, two layers of 100."""

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
    write_meta_policy,
)
from thetaprime.wire import Trajectory

TRAJECTORIES, STEPS, OBSERVATION, ACTION = 20, 200, 17, 6


def artifact(root: Path | None = None) -> MetaPolicy:
    """An untrained meta-policy of that size, in a folder of artifacts."""
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
    """20 trajectories of 200 steps whose actions θ drew."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(TRAJECTORIES):
        observations = rng.normal(size=(STEPS + 1, OBSERVATION)).astype(np.float32)
        actions = meta_policy.policy.sample(meta_policy.parameters, torch.from_numpy(observations[:-1]), generator)
        made.append(
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
    return made
