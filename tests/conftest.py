"""What the tests of every component share."""

from pathlib import Path

import hypothesis
import numpy as np
import pytest

from thetaprime.models import (
    AdaptationSpec,
    BoxAction,
    EnvironmentContract,
    Policy,
    PolicySpec,
    Provenance,
    write_meta_policy,
)

# How long an example takes says more about what else the machine is doing.
hypothesis.settings.register_profile("thetaprime", deadline=None)
hypothesis.settings.load_profile("thetaprime")


@pytest.fixture(scope="session")
def point_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of artifacts with an untrained ``point-navigation/1`` in it."""
    root = tmp_path_factory.mktemp("zoo")
    environment = EnvironmentContract(
        environment_id="thetaprime/PointNavigation-v0",
        observation_shape=(2,),
        action=BoxAction(low=(-0.1, -0.1), high=(0.1, 0.1)),
        horizon=100,
    )
    spec = PolicySpec()
    write_meta_policy(
        root / "point-navigation" / "1",
        name="point-navigation",
        version=1,
        description="Untrained, for tests.",
        environment=environment,
        policy_spec=spec,
        adaptation=AdaptationSpec(inner_lr=0.5),
        parameters=Policy(environment, spec).init(0),
        provenance=Provenance.untrained("point-navigation"),
        golden_observations=np.random.default_rng(0).normal(size=(8, 2)),
    )
    return root
