"""Small policies and batches."""

import numpy as np
import pytest
import torch

from tests.support.models.batches import MakeBatch
from thetaprime.models import (
    BoxAction,
    DiscreteAction,
    EnvironmentContract,
    Parameters,
    Policy,
    PolicySpec,
    TrajectoryBatch,
)


@pytest.fixture(params=["box", "discrete"])
def policy(request: pytest.FixtureRequest) -> Policy:
    action = (
        BoxAction(low=(-0.1, -2.0), high=(0.1, 1.0)) if request.param == "box" else DiscreteAction(count=3, start=1)
    )
    environment = EnvironmentContract(
        environment_id="test", observation_shape=(3,), action=action, horizon=12, control_timestep=0.05
    )
    return Policy(environment, PolicySpec(hidden_sizes=(8, 8), activation="tanh"))


@pytest.fixture
def make_batch() -> MakeBatch:
    def make(
        policy: Policy, parameters: Parameters, seed: int = 0, lengths: tuple[int, ...] = (12, 5, 12, 9)
    ) -> TrajectoryBatch:
        rng = np.random.default_rng(seed)
        generator = torch.Generator().manual_seed(seed)
        observations = [rng.normal(size=(n, 3)).astype(np.float32) for n in lengths]
        actions = [policy.sample(parameters, torch.from_numpy(o), generator).numpy() for o in observations]
        return TrajectoryBatch.concatenate(
            observations,
            actions,
            [rng.normal(size=n).astype(np.float32) for n in lengths],
            [n < 12 for n in lengths],
            [rng.normal(size=3).astype(np.float32) for _ in lengths],
        )

    return make
