"""Node.js and the packages of the Node example."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

NODE_EXAMPLE: Final = Path(__file__).resolve().parents[2] / "examples" / "node"
_LOCK: Final = NODE_EXAMPLE.parents[1] / "build" / "node-example.lock"
# npm's words for a registry that cannot be reached.
_OFFLINE: Final = re.compile(r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|ERR_SOCKET_TIMEOUT")


class Node:
    """Runs Node.js in the folder of the example."""

    def __init__(self, program: str) -> None:
        self._program = program

    def run(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Runs a program to its end, and returns its status and output."""
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
        """Runs a program that answers lines of JSON, for the duration of the context."""
        pipe = subprocess.PIPE
        with subprocess.Popen([self._program, str(program)], stdin=pipe, stdout=pipe, text=True) as process:
            yield Talk(process)
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(60) == 0


class Talk:
    """Sends requests and receives answers, each a line of JSON."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ask(self, call: str, **request: Any) -> dict[str, Any]:
        """Returns the answer to a request."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"call": call, **request}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def install(npm: str) -> None:
    """Installs the packages of the lockfile, unless they are installed."""
    _LOCK.parent.mkdir(exist_ok=True)
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other processes of this test run install too
        _install(npm)


def _install(npm: str) -> None:
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


def last_line(text: str) -> str:
    return next((line for line in text.splitlines() if "Error" in line), text.strip()[-200:])
