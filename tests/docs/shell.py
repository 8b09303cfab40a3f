"""Runs the commands of console blocks with small settings, or checks the names that they use."""

import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner

from tests.docs.blocks import ROOT, Block
from tests.docs.output import check_output
from thetaprime.cli import cli

# Options appended to those of a page, which they override: the same commands with less work.
SMALL: Final[dict[str, tuple[str, ...]]] = {
    "train": (
        "--recipe",
        "paper",
        "--iterations",
        "1",
        "--meta-batch-size",
        "2",
        "--adaptation-trajectories-per-round",
        "1",
    ),
    "train rl2": ("--recipe", "paper", "--iterations", "1", "--meta-batch-size", "2"),
    "build": ("--minutes", "0.2", "--config", "small.toml"),
    "export": ("--tasks", "2", "--more-trajectories", "1"),
    "evaluate": ("--tasks", "2", "--gradient-steps", "1", "--trajectories", "2"),
}
SMALL_SETTINGS: Final = """
iterations = 1
meta_batch_size = 2
[adaptation]
trajectories_per_round = 2
"""
"""The file `small.toml` of a page that builds."""
# Options that are removed, with their value: a clip needs OpenGL, and `tests/training/test_clip.py` tests clips.
LEFT_OUT: Final = ("--video",)
_SERVE: Final = ("--address", "127.0.0.1:0")
# Commands that call the page's server.
_CALLING: Final = ("adapt", "health", "models", "sessions")
_START_SECONDS: Final = 60


class Shell:
    """Runs the commands of one page in one folder.

    These commands do not run:

    - ``pip install`` would download. Every extra that it names must be one of the project's.
    - ``make`` would run these tests, or for hours. The Makefile must have the target.
    - ``python FILE`` is a program of the repository that has its own tests. It must exist and compile.
    """

    def __init__(self, folder: Path, address: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._given, self._monkeypatch = folder, address, monkeypatch
        self._server: subprocess.Popen[str] | None = None
        self._address: str | None = None

    def address(self) -> str:
        """Returns the address of the server that the page started, or else of the shared server."""
        return self._address or self._given()

    def close(self) -> None:
        """Stops the server that the page started."""
        if self._server is not None:
            self._server.send_signal(signal.SIGTERM)
            self._server.communicate(timeout=_START_SECONDS)
            self._server = self._address = None

    def run(self, block: Block) -> str:
        """Runs a block's commands, and compares the output that the block shows.

        Returns:
            The output of all commands.
        """
        printed = ""
        for command, shown in _commands(block):
            output = self._run(shlex.split(command, comments=True), block.where)
            check_output(shown, output, block.where)
            printed += output
        return printed

    def _run(self, words: list[str], where: str) -> str:
        match words:
            case ["thetaprime", "serve", *options] if "--show-config" not in options:
                return self._serve(options)
            case ["thetaprime", *_]:
                return self._thetaprime(words[1:], where)
            case ["openssl", *_]:
                done = subprocess.run(words, cwd=self._folder, capture_output=True, text=True)
                assert done.returncode == 0, f"{where}: {done.stderr}"
            case ["pip", "install", *packages]:
                _check_packages(packages, where)
            case ["make", *targets]:
                _check_targets(targets, where)
            case ["python", file, *_]:
                compile((ROOT / file).read_text(encoding="utf-8"), file, "exec", dont_inherit=True)
            case ["export", assignment]:
                name, _, value = assignment.partition("=")
                self._monkeypatch.setenv(name, value)
            case _:
                pytest.fail(f"{where}: no rule to check {shlex.join(words)}")
        return ""

    def _thetaprime(self, arguments: list[str], where: str) -> str:
        name = next(word for word in arguments if not word.startswith("-"))
        context = {"THETAPRIME_ADDRESS": self.address()} if name in _CALLING else {}
        for option in LEFT_OUT:
            if option in arguments:
                at = arguments.index(option)
                arguments = [*arguments[:at], *arguments[at + 2 :]]
        # An export with a profile measures nothing; a policy that remembers has no inner loop.
        small = () if "--profile" in arguments else SMALL.get(f"{name} rl2" if "rl2" in arguments else name, ())
        result = CliRunner().invoke(cli, [*arguments, *small], prog_name="thetaprime", env=context)
        # A policy that was trained with small settings gains nothing.
        fine = (0, 3) if arguments[0] == "adapt" else (0,)
        assert result.exit_code in fine, f"{where}: thetaprime {shlex.join(arguments)}: {result.output}"
        return result.output

    def _serve(self, options: list[str]) -> str:
        self.close()
        workers = ("--workers", "1") if "--workers" in options else ()
        command = [sys.executable, "-m", "thetaprime.cli", "serve", *options, *_SERVE, *workers]
        with (self._folder / "server.log").open("a") as log:
            self._server = subprocess.Popen(command, cwd=self._folder, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        assert line.startswith("serving on "), (self._folder / "server.log").read_text()
        self._address = line.removeprefix("serving on ").strip()
        return line


def _commands(block: Block) -> list[tuple[str, str]]:
    """Returns (command, shown output) for each command, with continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", block.code)
    first, *parts = re.split(r"^\$ ", text, flags=re.MULTILINE)
    assert not first.strip(), f"{block.where}: a console block begins with a command"
    return [(head, rest) for head, _, rest in (part.partition("\n") for part in parts)]


def _check_packages(packages: list[str], where: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for package in packages:
        match = re.fullmatch(r"(?:thetaprime|\.)(?:\[([\w,-]+)\])?", package)
        if match is not None:
            unknown = set((match[1] or "").split(",")) - {"", *project["optional-dependencies"]}
            assert not unknown, f"{where}: the project has no extra {unknown}"


def _check_targets(words: list[str], where: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        if "=" not in word:
            assert re.search(rf"^{re.escape(word)}:", makefile, flags=re.MULTILINE), f"{where}: no target {word}"
