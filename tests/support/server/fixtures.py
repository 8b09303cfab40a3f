"""Fixtures: a zoo of one tiny meta-policy, and servers in this process with a plain gRPC client for each."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.artifacts import write_point_artifact
from tests.support.server.service import Configure, Service, Start, connect
from thetaprime.server import ServerConfig, running_server


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of one untrained meta-policy."""
    root = tmp_path_factory.mktemp("zoo")
    for version in (1, 2):
        write_point_artifact(root, version, seed=version)
    return root


@pytest.fixture(scope="session")
def configure(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Configure:
    """Returns a function that makes a configuration: any free port, a fresh store, and the given fields."""
    numbers = itertools.count()

    def make(**fields: Any) -> ServerConfig:
        store = tmp_path_factory.mktemp(f"store-{next(numbers)}")
        return ServerConfig(
            **{
                "address": "127.0.0.1:0",
                "store": store,
                "zoo": (zoo,),
                "adaptation_threads": 2,
                "grace": 20.0,
                **fields,
            }
        )

    return make


@pytest.fixture(scope="session")
def start(configure: Configure) -> Start:
    """Returns a function that runs a server in this process for the duration of a context."""

    @contextlib.contextmanager
    def run(**fields: Any) -> Iterator[Service]:
        with running_server(configure(**fields)) as address, connect(address) as service:
            yield service

    return run


@pytest.fixture(scope="module")
def service(start: Start) -> Iterator[Service]:
    """A client of one server with the default limits, for all tests of a module."""
    with start() as running:
        yield running
