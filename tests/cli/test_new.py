"""``thetaprime new``: the files that it writes pass their checks and can be trained. `make check` types them."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.docs.reader import own_modules
from tests.support.command import Command, last_json
from thetaprime.training import check_task_distribution, load_config, train
from thetaprime.training.tasks.vector_env import WORKERS_VARIABLE

KINDS = ("gymnasium", "mujoco", "process")


@pytest.mark.parametrize("kind", KINDS)
def test_the_written_class_meets_the_contract_and_trains(
    kind: str, tmp_path: Path, thetaprime: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(WORKERS_VARIABLE, "1")
    name = f"written_{kind}"
    facts = last_json(thetaprime("new", f"{name}.py", "--kind", kind, "--json"))
    assert facts["tasks"] == f"{name}:Written{kind.title()}"
    assert facts["files"][0] == f"{name}.py" and f"test_{name}.py" in facts["files"]
    with own_modules(tmp_path, monkeypatch):
        importlib.import_module(f"test_{name}").test_the_tasks_meet_the_contract()
        config = load_config(
            None,
            {
                "tasks": facts["tasks"],
                "iterations": 1,
                "meta_batch_size": 2,
                "adaptation.trajectories_per_round": 2,
                "tracker": "none",
            },
        )
        assert train(config, tmp_path / "run").environment_steps > 0


def test_the_written_files_pass_linters_and_their_test(tmp_path: Path, thetaprime: Command) -> None:
    for kind in KINDS:
        assert thetaprime("new", tmp_path / f"written_{kind}.py", "--kind", kind).exit_code == 0
    lint = [sys.executable, "-m", "ruff", "check", "--isolated", "--select=E,F,W,I,B,UP,D1,RUF100,SIM", "--ignore=D107"]
    checked = subprocess.run([*lint, "--line-length=120", "."], cwd=tmp_path, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_a_simulator_that_ends_or_hangs_costs_an_episode_and_is_started_again(
    tmp_path: Path, thetaprime: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert thetaprime("new", tmp_path / "remote.py", "--kind", "process").exit_code == 0
    simulator = tmp_path / "remote_simulator.py"
    working = simulator.read_text()
    with own_modules(tmp_path, monkeypatch):
        module: Any = importlib.import_module("remote")
        tasks = module.Remote()
        (task,) = tasks.sample_tasks(1, np.random.default_rng(0))
        env = tasks.make(task)
        first, _ = env.reset(seed=3)
        env._process.kill()
        with pytest.raises(RuntimeError, match="ended, status -9"):
            env.step(np.zeros(1))
        again, _ = env.reset(seed=3)
        assert np.array_equal(first, again)
        # It ends between two episodes: the reset starts another one.
        env._process.kill()
        env.reset(seed=3)
        assert "starting the simulator again" in capfd.readouterr().err
        env.step(np.zeros(1))
        env.close()
        env.close()

        simulator.write_text("import time\n\ntime.sleep(600)\n")
        monkeypatch.setattr(module, "ANSWER_SECONDS", 0.2)
        with pytest.raises(RuntimeError, match="ended, status -9"):
            env.reset()
        simulator.write_text("print('not JSON')\n")
        monkeypatch.setattr(module, "ANSWER_SECONDS", 10.0)
        with pytest.raises(RuntimeError, match="answered 'not JSON"):
            env.reset()
        simulator.write_text(working)
        env.reset()
        env.close()


def test_a_file_that_exists_is_kept_without_force(tmp_path: Path, thetaprime: Command) -> None:
    file = tmp_path / "mine.py"
    assert thetaprime("new", file).exit_code == 0
    written = file.read_text()
    file.write_text("mine = 1\n")
    refused = thetaprime("new", file)
    assert refused.exit_code == 2 and f"{file} exists" in refused.stderr and file.read_text() == "mine = 1\n"
    assert thetaprime("new", file, "--force").exit_code == 0 and file.read_text() == written
    # None is written where one of them exists.
    other = tmp_path / "other.py"
    (tmp_path / "other_simulator.py").touch()
    refused = thetaprime("new", other, "--kind", "process")
    assert refused.exit_code == 2 and "other_simulator.py exists" in refused.stderr and not other.exists()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (
            "my-tasks.py",
            "'my-tasks' is not the name of a Python module; expected letters, digits and _, such as my_tasks.py",
        ),
        ("2arms.py", "such as tasks_2arms.py"),
        ("class.py", "such as tasks_class.py"),
        ("__.py", "'__' gives no name of a class"),
        (
            "random.py",
            "'random' is the name of a module that Python finds elsewhere; choose another, such as random_tasks.py",
        ),
        ("gymnasium.py", "such as gymnasium_tasks.py"),
        ("thetaprime.py", "such as thetaprime_tasks.py"),
        ("my_tasks", "expected a file that ends with .py"),
        ("none/my_tasks.py", "none does not exist"),
    ],
)
def test_a_name_that_python_cannot_import_is_refused(
    name: str, problem: str, tmp_path: Path, thetaprime: Command
) -> None:
    refused = thetaprime("new", tmp_path / name, "--json")
    assert refused.exit_code == 2 and problem in json.loads(refused.stdout)["error"]["message"]
    assert not list(tmp_path.iterdir())


def test_the_class_is_named_after_the_module_and_its_package(
    tmp_path: Path, thetaprime: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "new_robots"
    package.mkdir()
    (package / "__init__.py").touch()
    # A name that the file uses, in a package.
    facts = last_json(thetaprime("new", package / "mujoco_tasks.py", "--kind", "mujoco", "--json"))
    assert facts["tasks"] == "new_robots.mujoco_tasks:MujocoTasksFamily"
    with own_modules(tmp_path, monkeypatch):
        check_task_distribution(importlib.import_module("new_robots.mujoco_tasks").MujocoTasksFamily())
        importlib.import_module("new_robots.test_mujoco_tasks").test_the_tasks_meet_the_contract()
