"""Environments that raise, die, hang, leak, print, or take the time for a seed."""

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.training.corridor import Corridor, CorridorTasks
from tests.support.training.user_module import importable
from thetaprime.models import Policy, PolicySpec, TrajectoryBatch
from thetaprime.training.sampling.sampler import collect
from thetaprime.training.tasks import OracleTasks, Task, check_task_distribution
from thetaprime.training.tasks.limits import MEMORY_VARIABLE, RESTARTS_VARIABLE, SECONDS_VARIABLE
from thetaprime.training.tasks.vector_env import WORKERS_VARIABLE
from thetaprime.training.tasks.worker_pool import WorkerError, worker_pool

MODULE = "failing_environments"  # workers import it by this name
SOURCE = '''
import os
import pathlib
import signal
import threading

from tests.support.training.corridor import Corridor, CorridorTasks

KEPT = []


class Failing(Corridor):
    def __init__(self, trouble, folder, times):
        super().__init__(1.0)
        self.trouble, self.folder, self.times = trouble, pathlib.Path(folder), times

    def again(self):
        """Whether the trouble happens once more."""
        for number in range(self.times):
            try:
                (self.folder / str(number)).touch(exist_ok=False)
            except FileExistsError:
                continue
            return True
        return False

    def reset(self, *, seed=None, options=None):
        if self.trouble == "leak" and self.again():
            KEPT.append(bytearray(os.urandom(1_000_000) * 50))
        return super().reset(seed=seed, options=options)

    def step(self, action):
        if self.trouble == "print":
            print("noise")
        if self._elapsed == 2 and self.trouble in {"raise", "die", "hang"} and self.again():
            if self.trouble == "raise":
                raise ArithmeticError("no third step")
            if self.trouble == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            threading.Event().wait()
        return super().step(action)


class Troubled(CorridorTasks):
    def __init__(self, folder, times=1):
        self.folder, self.times = str(folder), times

    def make(self, task):
        return Failing(task.get("trouble"), self.folder, self.times)
'''


@pytest.fixture(scope="module", autouse=True)
def _module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with importable(tmp_path_factory.mktemp("user"), MODULE, SOURCE):
        yield


def _tasks(trouble: str) -> list[Any]:
    return [{"goal": 1.0, "task": 0.0}, {"goal": 1.0, "task": 1.0, "trouble": trouble}, {"goal": 1.0, "task": 2.0}]


def _troubled(folder: Path, times: int) -> Any:
    return importlib.import_module(MODULE).Troubled(folder, times)


def _collect(distribution: Any, tasks: Sequence[Task], trajectories: int = 2) -> list[TrajectoryBatch]:
    policy = Policy(distribution.environment, PolicySpec(hidden_sizes=(4,)))
    parameters = [policy.init(0)] * len(tasks)
    return collect(distribution, tasks, policy, parameters, trajectories, rng=np.random.default_rng(0))


def _assert_whole(batches: Sequence[TrajectoryBatch], trajectories: int = 2) -> None:
    for batch in batches:
        assert len(batch.lengths) == trajectories
        assert sum(batch.lengths) == len(batch.rewards) == len(batch.actions) == len(batch.observations)
        assert min(batch.lengths) >= 3, "part of an episode was kept"


@pytest.mark.parametrize("workers", [1, 2])
def test_an_environment_that_raises_costs_its_episode(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WORKERS_VARIABLE, str(workers))
    told = r"no third step, while stepping environment [23], task {'goal': 1.0, 'task': 1.0.*: the episode is sampled"
    with pytest.warns(RuntimeWarning, match=told) as warned:
        batches = _collect(_troubled(tmp_path, 1), _tasks("raise"))
    assert len(warned) == 1
    _assert_whole(batches)
    # The other tasks' episodes are those without trouble.
    undisturbed = _collect(_troubled(tmp_path, 0), _tasks("raise"))
    for task in (0, 2):
        np.testing.assert_array_equal(batches[task].observations, undisturbed[task].observations)


def test_the_oracles_episodes_are_sampled_again_too(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="no third step"):
        _assert_whole(_collect(OracleTasks(_Numbers(tmp_path)), [{"goal": 1.0}, {"goal": 1.0}]))


class _Numbers(CorridorTasks):
    """Tasks of numbers alone, as an oracle needs them, with one environment in trouble."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(self, task: Task) -> Any:
        return _troubled(self._folder, 1).make({"trouble": "raise"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        ("die", r"a worker process died \(exit status -9\), while stepping environment 3, task .*'trouble': 'die'"),
        ("hang", r"did not answer for 0.5 seconds, while stepping environment 3, task .*'trouble': 'hang'"),
    ],
)
def test_a_worker_that_dies_or_hangs_costs_its_episodes(
    trouble: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WORKERS_VARIABLE, "2")
    monkeypatch.setenv(SECONDS_VARIABLE, "0.5")
    tasks: list[Any] = [{"goal": 1.0}, {"goal": 1.0}, {"goal": 1.0}, {"goal": 1.0, "trouble": trouble}]
    with pytest.warns(RuntimeWarning, match=told) as warned:
        batches = _collect(_troubled(tmp_path, 1), tasks, trajectories=1)
    assert len(warned) == 1
    _assert_whole(batches, 1)
    _assert_whole(_collect(_troubled(tmp_path, 0), tasks, trajectories=1), 1)


@pytest.mark.slow
def test_a_hanging_environment_is_shown_where_it_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKERS_VARIABLE, "2")
    monkeypatch.setenv(SECONDS_VARIABLE, "0.3")
    monkeypatch.setenv(RESTARTS_VARIABLE, "0")
    with pytest.raises(WorkerError, match=rf"(?s)did not answer for 0.3 seconds.*{MODULE}.py.*in step"):
        _collect(_troubled(tmp_path, 9), _tasks("hang"), trajectories=1)


def test_an_environment_that_fails_again_and_again_ends_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RESTARTS_VARIABLE, "2")
    with (
        pytest.warns(RuntimeWarning, match="no third step") as warned,
        pytest.raises(WorkerError, match=r"3 episodes of this task failed; THETAPRIME_TRAINING_RESTARTS=2 sets"),
    ):
        _collect(_troubled(tmp_path, 99), _tasks("raise"), trajectories=1)
    assert len(warned) == 2
    monkeypatch.setenv(RESTARTS_VARIABLE, "some")
    with pytest.raises(ValueError, match="'some'; expected a number of restarts"):
        _collect(_troubled(tmp_path, 99), _tasks("raise"), trajectories=1)


def test_environments_that_all_fail_end_training_at_once(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"(?s)no third step, while stepping .*all environments failed.*Traceback"):
        _collect(_troubled(tmp_path, 99), _tasks("raise")[1:2] * 3)


@pytest.mark.slow
def test_a_worker_whose_environments_leak_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKERS_VARIABLE, "2")
    monkeypatch.setenv(MEMORY_VARIABLE, "80")
    worker_pool(0).close()
    leaking: list[Any] = [{"goal": 1.0, "trouble": "leak"}] * 3
    with pytest.warns(RuntimeWarning, match=r"Troubled: a worker process grew by \d+ MB, .* keep memory") as warned:
        batches = _collect(_troubled(tmp_path, 999), leaking)
    _assert_whole(batches)
    assert 2 <= len(warned) <= 4, [str(each.message) for each in warned]  # 6 episodes of 50 MB, 2 in each life


def test_what_environments_print_is_not_the_programs_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for workers in ("1", "2"):
        monkeypatch.setenv(WORKERS_VARIABLE, workers)
        _collect(_troubled(tmp_path, 0), _tasks("print"))
        assert capfd.readouterr().out == ""


class _Clock(CorridorTasks):
    """Its environments seed themselves from the clock."""

    def make(self, task: Task) -> Any:
        class Clocked(Corridor):
            def reset(
                self, *, seed: int | None = None, options: dict[str, Any] | None = None
            ) -> tuple[Any, dict[str, Any]]:
                import time

                super().reset(seed=int(time.time()) // 60, options=options)
                return np.array([self.np_random.uniform()], np.float32), {}

        return Clocked(1.0)


def test_the_contract_test_finds_seeds_from_the_clock() -> None:
    with pytest.raises(AssertionError, match=r"reset differs .* same seed and actions: .* not from .* the clock"):
        check_task_distribution(_Clock())
