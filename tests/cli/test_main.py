"""The command as a whole: it starts without extras, and reports every error in one line."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click
import pytest
from click.testing import Result

from thetaprime.cli import _files, cli, serve, train
from thetaprime.cli._command import Command
from thetaprime.cli._errors import CommandError, error_object
from thetaprime.cli._main import SUBCOMMANDS
from thetaprime.models import zoo_directory
from thetaprime.server import ServerConfig
from thetaprime.training import TrainConfig

Run = Callable[..., Result]
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


LIGHT = ("torch", "onnx", "onnxruntime", "grpc", "rich", "matplotlib", "mujoco", "numpy", "pydantic", "sqlalchemy")
HEAVY = LIGHT[:7]  # of the two commands whose options come from a pydantic model


@pytest.mark.parametrize(
    ("args", "heavy"),
    [
        ((), LIGHT),
        *(((name,), HEAVY if name in ("serve", "train") else LIGHT) for name in SUBCOMMANDS),
    ],
)
def test_help_imports_no_heavy_package(args: tuple[str, ...], heavy: tuple[str, ...]) -> None:
    code = (
        "import sys, contextlib; from thetaprime.cli import cli\n"
        f"with contextlib.suppress(SystemExit): cli([*{args}, '--help'])\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage:" in result.stdout
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
        (("evaluate", "x"), "training"),
        (("export", ".", "--pretrained=.", "--oracle=.", "--name=a", "--description=b"), "training"),
        (("export", ".", "--name=a", "--description=b"), "training"),
        (("compare", str(zoo_directory() / "point-navigation" / "1"), "--oracle=."), "training"),
        (("export", ".", "--profile=epsilon"), "training"),
    ],
)
def test_a_missing_extra_is_one_line_with_the_install_command(
    args: tuple[str, ...], extra: str, tmp_path: Path
) -> None:
    result = without_extras(*args, folder=tmp_path)
    assert result.returncode == 1
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []
    assert result.stderr.strip() == (f"thetaprime {args[0]} needs the {extra} extra: pip install 'thetaprime[{extra}]'")


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_command_has_help(name: str, thetaprime: Run) -> None:
    result = thetaprime(name, "--help")
    assert result.exit_code == 0, result.stderr
    assert "Usage: thetaprime" in result.stdout


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_example_of_the_help_is_a_command_line_that_parses(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click.Path, "convert", lambda self, value, param, ctx: Path(value))  # the files do not exist
    monkeypatch.setattr(_files.NewFile, "convert", lambda self, value, param, ctx: Path(value))
    found = cli.get_command(click.Context(cli), name)
    grouped = found.commands if isinstance(found, click.Group) else {"": found}
    for each, command in grouped.items():
        path = (name, each) if each else (name,)
        assert isinstance(command, Command) and command.examples
        for example in command.examples:
            words = shlex.split(example.partition(" >> ")[0].replace("\\\n", " "))
            start = words.index("thetaprime") + 1
            end = start + len(path)
            assert tuple(words[start:end]) == path
            command.make_context(path[-1], words[end:])
            assert example.splitlines()[0] in command.get_help(click.Context(command))


@pytest.mark.parametrize(("name", "sections"), [("train", train.SECTIONS), ("serve", serve.SECTIONS)])
def test_every_setting_stands_in_a_section_of_the_help(name: str, sections: Mapping[str, Sequence[str]]) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert isinstance(command, Command)
    found = command.sections(click.Context(command))
    assert {each.opts[-1] for each in found.pop("Options")} <= {"--json", "--show-config", "--help"}
    assert found.keys() >= sections.keys()
    model = TrainConfig if name == "train" else ServerConfig
    assert {field for fields in sections.values() for field in fields} == model.model_fields.keys() - {"tasks"}


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (("bogus",), "No such command 'bogus'"),
        (("adpat", "x"), "No such command 'adpat'; did you mean 'adapt'?"),  # codespell:ignore adpat
        (("models", "--jsn"), "--json"),
        (("adapt", "x", "--env", "CartPole-v1", "--output", "/proc/self/p.onnx"), "/proc/self cannot be written"),
        (("adapt", "x", "--env", "CartPole-v1", "--output", "/proc"), "/proc is a folder; expected a file"),
        (("demo", "--output", "/proc/self/demo"), "/proc/self cannot be written"),
        (("train", "point-navigation", "--output", "/dev/null/run"), "/dev/null is not a folder"),
        (("--bogus",), "No such option"),
        (("serve", "--max-sessions", "many"), "'many' is not a valid integer"),
        (("serve", "--max-sessions", "0"), "max_sessions: Input should be greater than 0 (got 0)"),
        (("serve", "--bogus"), "No such option"),
        (("serve", "--address", "127.0.0.1:99999"), "address: has port '99999'; expected a number from 0 to 65535"),
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
def test_a_mistake_is_one_line_on_stderr(args: tuple[str, ...], problem: str, thetaprime: Run) -> None:
    result = thetaprime(*args)
    assert result.exit_code != 0
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("thetaprime")
    assert problem in result.stderr
    assert "PydanticUndefined" not in result.stderr  # a default that follows from the refused value


def test_a_traceback_is_printed_only_on_request(tmp_path: Path, thetaprime: Run) -> None:
    broken = tmp_path / "policy.onnx"
    broken.write_text("no onnx")
    result = thetaprime("inspect", broken)
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)
    traced = thetaprime("--traceback", "inspect", broken)
    assert (traced.exit_code, traced.stdout) == (1, "")
    assert traced.stderr.startswith("Traceback")
    assert "PolicyVerificationError" in traced.stderr
    assert traced.stderr.endswith(result.stderr)


@pytest.mark.parametrize(
    ("args", "code", "details"),
    [
        (("bogus", "--json"), "INVALID_ARGUMENT", {"command": "thetaprime"}),
        (("models", "--bogus", "--json"), "INVALID_ARGUMENT", {"command": "thetaprime models"}),
        (("serve", "--json"), "INVALID_ARGUMENT", {"command": "thetaprime serve"}),
        (("adapt", "x", "--env", "NoSuch-v0", "--json"), "INVALID_ARGUMENT", {"command": "thetaprime adapt"}),
        (("inspect", "{tmp}", "--json"), "INVALID_ARGUMENT", {}),
    ],
)
def test_with_json_a_failure_is_an_object_on_the_last_line(
    args: tuple[str, ...], code: str, details: dict[str, str], tmp_path: Path, thetaprime: Run
) -> None:
    result = thetaprime(*(each.format(tmp=tmp_path) for each in args))
    assert result.exit_code != 0
    (line,) = result.stdout.splitlines()
    error = json.loads(line)["error"]
    assert (error["code"], error["details"]) == (code, details)
    assert result.stderr.strip() == error["message"]


def test_with_json_a_setting_that_is_refused_is_named(thetaprime: Run) -> None:
    result = thetaprime("train", "point-navigation", "--max-kl=-1", "--policy-hidden-sizes=-3", "--json")
    error = json.loads(result.stdout.splitlines()[-1])["error"]
    assert error["code"] == "INVALID_ARGUMENT"
    assert "max_kl: " in error["message"] and "policy.hidden_sizes.0: " in error["message"]


def test_with_json_a_missing_extra_says_what_to_install() -> None:
    result = without_extras("inspect", ".", "--json")
    error = json.loads(result.stdout.splitlines()[-1])["error"]
    assert error["code"] == "FAILED_PRECONDITION"
    assert error["details"] == {"install": "pip install 'thetaprime[server]'"}


def test_no_arguments_is_help(thetaprime: Run) -> None:
    result = thetaprime()
    assert result.exit_code == 2
    assert "Commands:" in result.output


def test_the_version(thetaprime: Run) -> None:
    assert thetaprime("--version").stdout.startswith("thetaprime, version ")


def test_an_interruption_is_reported_as_cancelled_with_the_status_of_shells() -> None:
    error = CommandError.of(KeyboardInterrupt(), "thetaprime adapt", "training", {"session_id": "s"})
    assert (error.exit_code, error.format_message()) == (130, "thetaprime adapt: interrupted")
    assert error_object(error, "m")["error"] == {"code": "CANCELLED", "message": "m", "details": {"session_id": "s"}}
