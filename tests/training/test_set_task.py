"""Environments that are made once and told their tasks."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from tests.support.training.contract import assert_meets_contract
from tests.support.training.corridor import Corridor, CorridorTasks, SettableCorridorTasks
from tests.support.training.user_module import importable
from thetaprime.training.tasks import OracleTasks, SettableTaskDistribution, Task, check_task_distribution, make_vector
from thetaprime.training.tasks.protocol import can_set_task
from thetaprime.training.tasks.worker_pool import WorkerError

LEFT, RIGHT = {"goal": -1.0}, {"goal": 1.0}
MODULE = "settable_environments"  # workers import it by this name
SOURCE = '''
import os
from tests.support.training.corridor import Corridor, CorridorTasks


class Counted(CorridorTasks):
    """Appends a line to a file for each environment that is made, told a task, or closed."""

    def __init__(self, file):
        self.file = file

    def note(self, event):
        with open(self.file, "a") as file:
            file.write(f"{os.getpid()} {event}\\n")

    def make(self, task):
        self.note("make")
        env = super().make(task)
        env.close = lambda: self.note("close")
        return env

    def set_task(self, env, task):
        self.note("set")
        if task.get("trouble"):
            raise LookupError("no such corridor")
        env._goal = task["goal"]
'''


@pytest.fixture(scope="module", autouse=True)
def _module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with importable(tmp_path_factory.mktemp("user"), MODULE, SOURCE):
        yield


def _rewards(env: Any, seed: int) -> list[list[float]]:
    env.reset(seed=seed)
    actions = np.full(env.num_envs, 2)
    return [env.step(actions)[1].tolist() for _ in range(12)]


@pytest.mark.parametrize("workers", [1, 2])
def test_environments_are_made_once_and_told_their_task(workers: int, tmp_path: Path) -> None:
    log = tmp_path / "log"
    counted = importlib.import_module(MODULE).Counted(str(log))
    for seed, tasks in enumerate(([LEFT] * 4, [RIGHT, LEFT, RIGHT, RIGHT], [LEFT, RIGHT], [RIGHT] * 4)):
        ours, reference = make_vector(counted, tasks, workers=workers), make_vector(CorridorTasks(), tasks, workers=1)
        assert _rewards(ours, seed) == _rewards(reference, seed)
        ours.close()
        reference.close()
    events = [line.split()[1] for line in log.read_text().splitlines()]
    assert (events.count("make"), events.count("set"), events.count("close")) == (4, 4 + 2 + 4, 0)
    # Another distribution takes their place.
    make_vector(importlib.import_module(MODULE).Counted(f"{log}2"), [LEFT] * 2, workers=workers).close()
    assert log.read_text().count("close") == 4


@pytest.mark.parametrize("workers", [1, 2])
def test_environments_beside_one_that_failed_are_not_kept(workers: int, tmp_path: Path) -> None:
    log = tmp_path / "log"
    counted = importlib.import_module(MODULE).Counted(str(log))
    make_vector(counted, [LEFT] * workers, workers=workers).close()
    with pytest.raises((LookupError, WorkerError), match="no such corridor"):
        make_vector(counted, [LEFT] * (workers - 1) + [{"goal": 1.0, "trouble": 1.0}], workers=workers)
    make_vector(counted, [LEFT] * workers, workers=workers).close()
    assert log.read_text().count("make") == workers + 1


class _Oracled(SettableCorridorTasks):
    def make(self, task: Task) -> gymnasium.Env[Any, Any]:
        return gymnasium.wrappers.TimeLimit(super().make(task), 12)

    def set_task(self, env: gymnasium.Env[Any, Any], task: Task) -> None:
        super().set_task(env.unwrapped, task)


def test_an_oracle_of_settable_tasks_observes_the_task_it_was_told() -> None:
    oracle = OracleTasks(_Oracled())
    assert can_set_task(oracle) and not can_set_task(OracleTasks(CorridorTasks()))
    assert isinstance(_Oracled(), SettableTaskDistribution)
    env = oracle.make(LEFT)
    oracle.set_task(env, RIGHT)
    np.testing.assert_array_equal(env.reset(seed=0)[0][1:], [1.0])
    assert_meets_contract(oracle)


class _WearingCorridor(Corridor):
    worn = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        self._position += self.worn
        return observation + np.float32(self.worn), info


class _WearsOut(SettableCorridorTasks):
    """Its environments start one step further to the right after each task."""

    def make(self, task: Task) -> gymnasium.Env[Any, Any]:
        goal = task["goal"]
        assert isinstance(goal, float)
        return _WearingCorridor(goal)

    def set_task(self, env: gymnasium.Env[Any, Any], task: Task) -> None:
        super().set_task(env, task)
        assert isinstance(env, _WearingCorridor)
        env.worn = 1


class _ForgetsTheTask(SettableCorridorTasks):
    def set_task(self, env: gymnasium.Env[Any, Any], task: Task) -> None:
        pass


class _ReturnsAnother(SettableCorridorTasks):
    def set_task(self, env: gymnasium.Env[Any, Any], task: Task) -> None:
        return self.make(task)  # type: ignore[return-value]


class _ChangesTheLength(SettableCorridorTasks):
    def set_task(self, env: gymnasium.Env[Any, Any], task: Task) -> None:
        super().set_task(env, task)
        step = env.step
        env.step = lambda action: (*step(action)[:3], True, {})  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("distribution", "problem"),
    [
        (
            _ForgetsTheTask(),
            r"set_task, task \{'goal': -?1.0\}, step \d+: the reward is \d.0; an environment that make",
        ),
        (_WearsOut(), r"set_task, task .*, reset: the observation is \[0\] = -?\d.0; an environment that make"),
        (_ReturnsAnother(), "set_task returned <.*Corridor.*>; expected that it changes the environment it gets"),
        (_ChangesTheLength(), r"set_task, task .*, step 0: truncated is True; an environment that make made gives F"),
    ],
)
def test_the_contract_test_names_what_set_task_leaves_different(
    distribution: SettableCorridorTasks, problem: str
) -> None:
    with pytest.raises(AssertionError, match=problem):
        check_task_distribution(distribution)


def test_the_contract_test_passes_equal_environments() -> None:
    check_task_distribution(SettableCorridorTasks())
