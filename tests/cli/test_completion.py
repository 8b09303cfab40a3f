"""Completion in a shell: names and values, quickly, without torch."""

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

import thetaprime.client as tp
from thetaprime import models
from thetaprime.cli import _completion, _connection, cli, evaluate
from thetaprime.training.evaluation import evaluation
from thetaprime.training.tasks import BODY_TASKS, TASKS_OF_RECORD


def complete(*words: str) -> list[str]:
    """Returns the completions of the last word."""
    *before, incomplete = words
    found = ShellComplete(cli, {}, "thetaprime", "_THETAPRIME_COMPLETE").get_completions(before, incomplete)
    return [each.value for each in found]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("ad",), ["adapt"]),
        (
            ("adapt", "half"),
            [
                *("half-cheetah-direction", "half-cheetah-direction-maml"),
                *("half-cheetah-velocity", "half-cheetah-velocity-maml"),
            ],
        ),
        (("adapt", "point-navigation@"), ["point-navigation@1"]),
        (("adapt", "ant-velocity", "--env", ""), ["thetaprime/AntVelocity-v0"]),
        (("adapt", "--env", "thetaprime/Po"), ["thetaprime/PointNavigation-v0"]),
        (("adapt", "x", "--profile", "u"), ["unity-mlagents"]),
        (("adapt", "x", "--resu"), ["--resume"]),
        (("evaluate", "po"), ["point-navigation", "point-navigation-maml"]),
        (("export", "po"), ["point-navigation", "point-navigation-maml"]),
        (("train", "ant"), ["ant-velocity", "ant-direction", "ant-leg", "ant-fourth-leg"]),
        (("train", "x", "--outer-loop", "pro"), ["promp"]),
        (("train", "x", "--policy-activation", ""), ["relu", "tanh"]),
        (("serve", "--max-tenant-b"), ["--max-tenant-bytes"]),
    ],
)
def test_names_and_values_are_completed(words: tuple[str, ...], expected: list[str]) -> None:
    assert complete(*words) == expected


def test_the_meta_policies_of_a_folder_are_completed(zoo: Path) -> None:
    assert complete("evaluate", "--zoo", str(zoo), "") == ["cart-pole", "point-navigation"]


def test_a_folder_without_readable_manifests_completes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a" / "1").mkdir(parents=True)
    (tmp_path / "a" / "1" / "manifest.json").write_text("{")
    assert complete("evaluate", "--zoo", str(tmp_path), "") == ["a"]
    context = click.Context(cli, info_name="thetaprime")
    assert _completion.complete_environment(context, context.command.params[0], "zzz") == []


def test_the_shell_s_own_call_imports_nothing_heavy() -> None:
    code = (
        "import os, sys; os.environ.update(_THETAPRIME_COMPLETE='bash_complete', COMP_WORDS='thetaprime adapt poi', "
        "COMP_CWORD='2'); import atexit, json; heavy = ('torch', 'gymnasium', 'numpy', 'grpc', 'rich', 'pydantic'); "
        "atexit.register(lambda: print(json.dumps([name for name in heavy if name in sys.modules]))); "
        "from thetaprime.cli import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *found, heavy = result.stdout.splitlines()
    assert found == ["plain,point-navigation", "plain,point-navigation-maml"]
    assert json.loads(heavy) == []


def test_names_that_are_copied_to_spare_an_import_are_those_of_the_components() -> None:
    assert models.PROFILES == _completion.PROFILES
    assert (*TASKS_OF_RECORD, *BODY_TASKS) == _completion.TASKS
    assert tp.DEFAULT_ADDRESS == _connection.DEFAULT_ADDRESS
    assert evaluation.GRADIENT_STEPS == evaluate.GRADIENT_STEPS
    assert evaluation.METHODS == evaluate.METHODS
    assert {f"{path.parent.name}@{path.name}": path for path in models.find_meta_policies(models.zoo_directory())} == (
        _completion.artifacts()
    )
