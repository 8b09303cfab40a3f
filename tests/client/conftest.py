"""Artifacts for the environments that these tests act in, and a server that serves them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import thetaprime.client as tp
from thetaprime import models
from thetaprime.server import ServerConfig, running_server

INF = float("inf")

CONTRACTS = {
    "point-navigation": models.EnvironmentContract(
        environment_id="thetaprime/PointNavigation-v0",
        observation_shape=(2,),
        action=models.BoxAction(low=(-0.1, -0.1), high=(0.1, 0.1)),
        horizon=100,
    ),
    "pendulum": models.EnvironmentContract(
        environment_id="Pendulum-v1",
        observation_shape=(3,),
        action=models.BoxAction(low=(-2.0,), high=(2.0,)),
        horizon=40,
        control_timestep=0.05,
    ),
    "cart-pole": models.EnvironmentContract(
        environment_id="CartPole-v1",
        observation_shape=(4,),
        action=models.DiscreteAction(count=2),
        horizon=60,
    ),
    "grid": models.EnvironmentContract(
        environment_id="grid",
        observation_shape=(2, 3),
        action=models.DiscreteAction(count=4, start=5),
        horizon=10,
    ),
    "half-open": models.EnvironmentContract(
        environment_id="half-open",
        observation_shape=(2,),
        action=models.BoxAction(low=(-1.0, 0.0, -3.0), high=(1.0, 10.0, 5.0)),
        horizon=10,
    ),
}


def write_artifact(root: Path, name: str) -> models.MetaPolicy:
    environment = CONTRACTS[name]
    spec = models.PolicySpec(hidden_sizes=(16, 16))
    rng = np.random.default_rng(1)
    return models.write_meta_policy(
        root / name / "1",
        name=name,
        version=1,
        description=f"{name}, untrained",
        environment=environment,
        policy_spec=spec,
        adaptation=models.AdaptationSpec(trajectories_per_round=4),
        parameters=models.Policy(environment, spec).init(0),
        provenance=models.Provenance.untrained(name),
        golden_observations=rng.normal(size=(3, *environment.observation_shape)),
    )


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("zoo")
    for name in CONTRACTS:
        write_artifact(root, name)
    return root


@pytest.fixture(scope="session")
def artifact(zoo: Path) -> Callable[[str], models.MetaPolicy]:
    return lambda name: models.load_meta_policy(zoo / name / "1")


@pytest.fixture(scope="session")
def theta(artifact: Callable[[str], models.MetaPolicy]) -> Callable[[str], tp.AdaptedPolicy]:
    def make(name: str) -> tp.AdaptedPolicy:
        meta_policy = artifact(name)
        exported = meta_policy.export(meta_policy.parameters)
        return tp.AdaptedPolicy(exported.onnx, sha256=exported.onnx_sha256, seed=0)

    return make


@pytest.fixture(scope="module")
def address(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    config = ServerConfig(address="127.0.0.1:0", store=tmp_path_factory.mktemp("store"), zoo=(zoo,))
    with running_server(config) as host_and_port:
        yield host_and_port


@pytest.fixture
def client(address: str) -> Iterator[tp.Client]:
    with tp.Client(address) as connected:
        yield connected
