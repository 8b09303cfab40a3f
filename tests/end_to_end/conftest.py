"""Server processes with the shipped meta-policies."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server.process import ServerProcess


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server for one test, not started yet."""
    with ServerProcess(tmp_path, None) as process:
        yield process


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server for the tests of a module."""
    with ServerProcess(tmp_path_factory.mktemp("served"), None) as process:
        yield process.start()
        assert process.stop() == 0
