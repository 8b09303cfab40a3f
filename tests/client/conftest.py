"""Artifacts for the tests' environments, and a server of these artifacts."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import thetaprime.client as tp
from tests.support.artifacts import write_untrained
from tests.support.contracts import CONTRACTS
from thetaprime import models
from thetaprime.server import ServerConfig, running_server


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("zoo")
    for name, contract in CONTRACTS.items():
        write_untrained(
            root,
            name,
            contract,
            spec=models.PolicySpec(hidden_sizes=(16, 16)),
            adaptation=models.AdaptationSpec(trajectories_per_round=4),
        )
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
