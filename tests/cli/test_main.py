"""The command as a whole: starts without extras, and says every error in one line."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from thetaprime.cli._main import SUBCOMMANDS

Command = Callable[..., Result]
EXTRAS = ("torch", "onnx", "gymnasium", "mujoco", "sqlalchemy", "structlog", "matplotlib", "safetensors")


def without_extras(*args: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process where no extra can be imported."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({EXTRAS!r})); import thetaprime.cli; "
        f"sys.argv[1:] = {list(args)!r}; thetaprime.cli.main()"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder)


def test_help_needs_no_extra_and_names_every_subcommand() -> None:
    result = without_extras("--help")
    assert result.returncode == 0, result.stderr
    assert all(f"  {name} " in result.stdout for name in SUBCOMMANDS)


def test_help_imports_no_component() -> None:
    code = (
        "import sys, contextlib; from thetaprime.cli import cli\n"
        "with contextlib.suppress(SystemExit): cli(['--help'])\n"
        "heavy = ('grpc', 'numpy', 'onnxruntime', 'pydantic', 'rich', 'thetaprime.client', 'thetaprime.server')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("args", "extra"),
    [
        (("serve",), "server"),
        (("models", "--local"), "server"),
        (("adapt", "x", "--env", "y"), "training"),
        (("inspect", "."), "server"),
        (("demo",), "server,training"),
        (("train",), "training"),
        (("evaluate",), "training"),
        (("export", ".", "--pretrained=.", "--oracle=.", "--name=a", "--description=b"), "training"),
        (("export", ".", "--profile=epsilon"), "training"),
    ],
)
def test_a_missing_extra_is_one_line_that_says_what_mends_it(args: tuple[str, ...], extra: str, tmp_path: Path) -> None:
    result = without_extras(*args, folder=tmp_path)
    assert result.returncode == 1
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []
    assert result.stderr.splitlines()[-1:] == result.stderr.splitlines()
    assert result.stderr.strip() == (f"thetaprime {args[0]} needs the {extra} extra: pip install 'thetaprime[{extra}]'")


@pytest.mark.parametrize("module", sorted({subcommand.module for subcommand in SUBCOMMANDS.values()}))
def test_every_subcommand_is_there_and_has_help(module: str, thetaprime: Command) -> None:
    result = thetaprime(module.rpartition(".")[2], "--help")
    assert result.exit_code == 0, result.stderr
    assert "Usage: thetaprime" in result.stdout


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (("bogus",), "No such command 'bogus'"),
        (("--bogus",), "No such option"),
        (("serve", "--max-sessions", "many"), "'many' is not a valid integer"),
        (("serve", "--max-sessions", "0"), "max_sessions: Input should be greater than 0 (got 0)"),
        (("serve", "--bogus"), "No such option"),
        (("models", "--zoo", "/no/such"), "does not exist"),
        (("adapt", "point-navigation"), "Missing option '--env'"),
        (("adapt", "x", "--env", "y", "--rounds", "0"), "0 is not in the range x>=1"),
        (("adapt", "x", "--env", "NoSuch-v0"), "NoSuch"),
        (("adapt", "x", "--env", "CartPole-v1", "--env-args", "goal"), "expected KEY=JSON"),
        (("adapt", "x", "--env", "CartPole-v1", "--env-args", "goal=[1,"), "is not JSON"),
        (("adapt", "x", "--env", "CartPole-v1", "--env-args", "bogus=1"), "bogus"),
        (("adapt", "x", "--env", "CartPole-v1", "--output", "/no/such/p.onnx"), "/no/such does not exist"),
        (("inspect", "/no/such"), "does not exist"),
        (("demo", "--goal", "0.1"), "requires 2 arguments"),
    ],
)
def test_a_mistake_is_one_line_on_stderr(args: tuple[str, ...], problem: str, thetaprime: Command) -> None:
    result = thetaprime(*args)
    assert result.exit_code != 0
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("thetaprime")
    assert problem in result.stderr


def test_no_traceback_unless_asked_for(tmp_path: Path, thetaprime: Command) -> None:
    broken = tmp_path / "policy.onnx"
    broken.write_text("no onnx")
    result = thetaprime("inspect", broken)
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)
    result = thetaprime("--traceback", "inspect", broken)
    assert type(result.exception).__name__ == "PolicyVerificationError"


def test_no_arguments_is_help(thetaprime: Command) -> None:
    result = thetaprime()
    assert result.exit_code == 2
    assert "Commands:" in result.output


def test_the_version(thetaprime: Command) -> None:
    assert thetaprime("--version").stdout.startswith("thetaprime, version ")
