"""Node.js with the example's packages, and a server."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.node import Node, Talk, install, last_line
from thetaprime.server import ServerConfig, running_server

_LEAST_VERSION: Final = 20


@pytest.fixture(scope="session")
def node() -> Node:
    """Node.js with the packages of the example's lockfile. Skips the test without them."""
    program, npm = shutil.which("node"), shutil.which("npm")
    if program is None or npm is None:
        pytest.skip(f"needs Node.js {_LEAST_VERSION} or newer with npm: https://nodejs.org")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < _LEAST_VERSION:
        pytest.skip(f"needs Node.js {_LEAST_VERSION} or newer, not {version}: https://nodejs.org")
    install(npm)
    installed = Node(program)
    loaded = installed.run("--input-type=module", "--eval", "import 'onnxruntime-node'")
    if loaded.returncode:
        pytest.skip(f"onnxruntime-node does not load on this machine: {last_line(loaded.stderr)}")
    return installed


@pytest.fixture(scope="module")
def talk(node: Node) -> Iterator[Talk]:
    """A Node process that calls the modules of the example."""
    with node.talking(Path(__file__).with_name("harness.mjs")) as open_talk:
        yield open_talk


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the shipped meta-policies."""
    with running_server(ServerConfig(address="127.0.0.1:0", store=tmp_path_factory.mktemp("store"))) as served:
        yield served
