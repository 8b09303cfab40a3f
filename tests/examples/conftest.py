"""Node.js with the example's packages, where there is one, and a server for its program."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from thetaprime.server import ServerConfig, running_server

NODE_EXAMPLE: Final = Path(__file__).resolve().parents[2] / "examples" / "node"
_LEAST_VERSION: Final = 20
# npm's words for a registry that cannot be reached, which is nobody's mistake here.
_OFFLINE: Final = re.compile(r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|ERR_SOCKET_TIMEOUT")


class Node:
    """Node.js, in the example's folder."""

    def __init__(self, program: str) -> None:
        self._program = program

    def run(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Runs a program to its end, whatever its status."""
        return subprocess.run(
            [self._program, *arguments],
            cwd=NODE_EXAMPLE,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
            env={**os.environ, **environment},
        )

    @contextlib.contextmanager
    def talking(self, program: Path) -> Iterator["Talk"]:
        """Runs a program that answers lines of JSON, for as long as a `with` lasts."""
        pipe = subprocess.PIPE
        with subprocess.Popen([self._program, str(program)], stdin=pipe, stdout=pipe, text=True) as process:
            yield Talk(process)
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(60) == 0


class Talk:
    """Requests and answers, a line of JSON each."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ask(self, call: str, **request: Any) -> dict[str, Any]:
        """The answer to a request."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"call": call, **request}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@pytest.fixture(scope="session")
def node() -> Node:
    """Node.js with the packages of the example's lockfile; without them the test is skipped, and says why."""
    program, npm = shutil.which("node"), shutil.which("npm")
    if program is None or npm is None:
        pytest.skip("node and npm are not installed")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < _LEAST_VERSION:
        pytest.skip(f"node is {version}; the example needs {_LEAST_VERSION} or newer")
    _install(npm)
    installed = Node(program)
    loaded = installed.run("--input-type=module", "--eval", "import 'onnxruntime-node'")
    if loaded.returncode:
        pytest.skip(f"onnxruntime-node does not run on this machine: {_last_line(loaded.stderr)}")
    return installed


def _install(npm: str) -> None:
    """Installs what the lockfile names, unless it is there."""
    lockfile = (NODE_EXAMPLE / "package-lock.json").read_bytes()
    stamp = NODE_EXAMPLE / "node_modules" / ".installed"
    digest = hashlib.sha256(lockfile).hexdigest()
    if stamp.is_file() and stamp.read_text() == digest:
        return
    command = [npm, "ci", "--prefer-offline", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
    run = subprocess.run(command, cwd=NODE_EXAMPLE, capture_output=True, text=True, check=False)
    if run.returncode and (offline := _OFFLINE.search(run.stderr)):
        pytest.skip(f"npm cannot reach its registry for the example's packages ({offline[0]})")
    assert run.returncode == 0, run.stderr
    stamp.write_text(digest)


def _last_line(text: str) -> str:
    return next((line for line in text.splitlines() if "Error" in line), text.strip()[-200:])


@pytest.fixture(scope="module")
def talk(node: Node) -> Iterator[Talk]:
    """The parts of the Node example, to be asked."""
    with node.talking(Path(__file__).with_name("harness.mjs")) as open_talk:
        yield open_talk


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the shipped meta-policies."""
    with running_server(ServerConfig(address="127.0.0.1:0", store=tmp_path_factory.mktemp("store"))) as served:
        yield served
