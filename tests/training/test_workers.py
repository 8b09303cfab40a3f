import functools
import importlib
import multiprocessing
import multiprocessing.process
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, Text
from gymnasium.vector import SyncVectorEnv

from tests.support.training.user_module import importable
from thetaprime.training.tasks import Task, make_vector
from thetaprime.training.tasks.vector_env import WORKERS_VARIABLE, WorkersVectorEnv
from thetaprime.training.tasks.worker_pool import WorkerError

# Worker processes import this file by this name, from this folder.
MODULE = "worker_environments"
SOURCE = '''
import os
import signal

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Walk(gymnasium.Env):
    """Two random walks side by side, of random length; `trouble` names the fault of the third step."""

    def __init__(self, drift, action_space, trouble=None, shape=(2, 3)):
        self.observation_space = Box(-np.inf, np.inf, shape, np.float64)
        self.action_space = action_space
        self.drift, self.trouble, self.shape = drift, trouble, shape

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.elapsed = self.np_random.normal(size=self.shape) * (options or {}).get("scale", 1.0), 0
        return self.at, {"ignored": 1}

    def step(self, action):
        self.elapsed += 1
        if self.elapsed == 3 and self.trouble == "raise":
            raise ArithmeticError("the walk has no third step")
        if self.elapsed == 3 and self.trouble == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.elapsed == 3 and self.trouble == "shape":
            return self.at[0], 0.0, False, False, {}
        self.at = self.at + self.drift * np.sum(action) + self.np_random.normal(size=self.shape)
        return self.at, np.float32(self.at.sum()), bool(self.at[0, 0] > 2.0), self.elapsed >= 7, {}


class Walks:
    def __init__(self, action_space):
        self.action_space = action_space

    def make(self, task):
        if task.get("trouble") == "make":
            raise LookupError("no such walk")
        return Walk(task["drift"], self.action_space, task.get("trouble"), tuple(task.get("shape", (2, 3))))
'''


@pytest.fixture(scope="module", autouse=True)
def _module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A user's module; closes the workers afterwards."""
    with importable(tmp_path_factory.mktemp("user"), MODULE, SOURCE):
        yield


def _walks(action_space: Any) -> Any:
    return importlib.import_module(MODULE).Walks(action_space)


def test_workers_import_from_folders_that_were_added_after_they_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WORKERS_VARIABLE, "2")
    tasks: list[Task] = [{"drift": 0.1}] * 64
    make_vector(_walks(Box(-1.0, 1.0, (2,), np.float32)), tasks).close()  # the workers have begun
    (tmp_path / "added_later.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    env = make_vector(importlib.import_module("added_later").Walks(Box(-1.0, 1.0, (2,), np.float32)), tasks)
    observations, _ = env.reset(seed=0)
    env.close()
    assert observations.shape == (64, 2, 3)


BOX, DISCRETE = Box(-1.0, 1.0, (2,), np.float32), Discrete(3, start=2)
TASKS: list[Task] = [{"drift": 0.1 * index} for index in range(7)]


def _memory(process: int | None = None) -> list[Path]:
    """The shared memory that a process has left, on systems that list it."""
    return list(Path("/dev/shm").glob(f"thetaprime-{process or os.getpid():x}-*"))  # noqa: S108


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("action_space", "dtype"), [(BOX, np.float32), (BOX, np.float64), (DISCRETE, np.int64), (DISCRETE, np.int32)]
)
def test_steps_equal_gymnasiums_sync_vector_env_to_the_bit(action_space: Any, dtype: Any, workers: int) -> None:
    walks, rng = _walks(action_space), np.random.default_rng(0)
    ours = WorkersVectorEnv(walks, TASKS, workers=workers)
    gymnasiums: Any = SyncVectorEnv([functools.partial(walks.make, task) for task in TASKS])
    assert ours.metadata["autoreset_mode"] == gymnasiums.metadata["autoreset_mode"]
    assert ours.observation_space == gymnasiums.observation_space and ours.action_space == gymnasiums.action_space
    for seed in (3, list(range(10, 17)), None):
        options = {"scale": 2.0}
        first, expected = ours.reset(seed=seed, options=options)[0], gymnasiums.reset(seed=seed, options=options)[0]
        assert first.dtype == expected.dtype
        np.testing.assert_array_equal(first, expected)
        ends = 0
        for _ in range(20):
            shape = (7, 2) if action_space is BOX else (7,)
            actions = (rng.uniform(-1, 1, shape) if action_space is BOX else rng.integers(2, 5, shape)).astype(dtype)
            mine, theirs = ours.step(actions)[:4], gymnasiums.step(actions)[:4]
            for one, other in zip(mine, theirs, strict=True):
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one, other)
            ends += int((theirs[2] | theirs[3]).sum())
        assert ends > 7, "no episode ended and began again"
    ours.close()
    gymnasiums.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_parked_environments_are_not_stepped_until_the_next_reset(workers: int) -> None:
    ours = WorkersVectorEnv(_walks(BOX), TASKS, workers=workers)
    reference = WorkersVectorEnv(_walks(BOX), TASKS, workers=workers)
    actions = np.zeros((7, 2), np.float32)
    for _ in range(2):
        np.testing.assert_array_equal(ours.reset(seed=0)[0], reference.reset(seed=0)[0])
        parked = np.zeros(7, np.bool_)
        for step in range(12):
            before = ours.step(actions)
            expected = reference.step(actions)
            for mine, full in zip(before[:4], expected[:4], strict=True):
                np.testing.assert_array_equal(mine[~parked], full[~parked])
            assert not before[1][parked].any() and not (before[2] | before[3])[parked].any()
            new = ~parked & (before[2] | before[3] | (step == 9))
            ours.park(new)
            parked |= new
            np.testing.assert_array_equal(ours.step(actions)[0][parked], before[0][parked])
            reference.step(actions)
        assert parked.all()
    ours.close()
    reference.close()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("raise", r"ArithmeticError: the walk has no third step, while stepping environment 5, task {'drift': 0.5, "),
        ("shape", r"ValueError: an observation of shape \(3,\); .* while stepping environment 5, task"),
        ("make", r"LookupError: no such walk, while making environment 5, task"),
    ],
)
def test_an_environments_exception_names_its_task(trouble: str, message: str, workers: int) -> None:
    tasks: list[Any] = [dict(task) for task in TASKS]
    tasks[5]["trouble"] = trouble
    with pytest.raises((WorkerError, ArithmeticError, ValueError, LookupError)) as caught:
        env = WorkersVectorEnv(_walks(BOX), tasks, workers=workers)
        try:
            env.reset(seed=0)
            for _ in range(8):
                env.step(np.zeros((7, 2), np.float32))
        finally:
            env.close()
    if workers == 1:  # the environment's own exception, with a note
        text = f"{type(caught.value).__name__}: {caught.value}, {caught.value.__notes__[0]}"
    else:
        assert isinstance(caught.value, WorkerError)
        text = str(caught.value)
        assert "Traceback" in text and (trouble == "shape" or f"{MODULE}.py" in text)
    assert re.search(message, text), text
    # The workers keep running.
    again = WorkersVectorEnv(_walks(BOX), TASKS, workers=workers)
    again.reset(seed=0)
    again.close()


@pytest.mark.slow
def test_a_dead_worker_is_reported_and_replaced() -> None:
    WorkersVectorEnv(_walks(BOX), TASKS, workers=2).close()
    victim = _workers()[0]
    victim.kill()
    victim.join()
    # It was idle: another worker replaces it without an error.
    tasks: list[Any] = [dict(task) for task in TASKS]
    tasks[4]["trouble"] = "die"
    env = WorkersVectorEnv(_walks(BOX), tasks, workers=2)
    env.reset(seed=0)
    died = r"worker process died \(exit status -9\) while stepping environment 4, task {'drift': 0.4"
    with pytest.raises(WorkerError, match=died):
        for _ in range(8):
            env.step(np.zeros((7, 2), np.float32))
    with pytest.raises(RuntimeError, match="closed"):
        env.step(np.zeros((7, 2), np.float32))
    env.close()
    assert not _workers()
    assert not _memory()
    again = WorkersVectorEnv(_walks(BOX), TASKS, workers=2)
    again.reset(seed=0)
    again.close()


def _workers() -> list[multiprocessing.process.BaseProcess]:
    return [each for each in multiprocessing.active_children() if each.name.startswith("thetaprime-worker")]


def test_workers_serve_many_vectors_and_several_at_once() -> None:
    first = WorkersVectorEnv(_walks(BOX), TASKS, workers=2)
    started = {each.pid for each in _workers()}
    second = WorkersVectorEnv(_walks(DISCRETE), TASKS[:3], workers=2)
    expected = [first.reset(seed=0)[0], second.reset(seed=1)[0]]
    first.close()
    np.testing.assert_array_equal(second.reset(seed=1)[0], expected[1])
    dropped = WorkersVectorEnv(_walks(BOX), TASKS, workers=2)
    np.testing.assert_array_equal(dropped.reset(seed=0)[0], expected[0])
    del dropped  # without being closed
    second.close()
    third = WorkersVectorEnv(_walks(BOX), TASKS, workers=2)
    np.testing.assert_array_equal(third.reset(seed=0)[0], expected[0])
    third.close()
    third.close()
    assert {each.pid for each in _workers()} == started
    assert not _memory()


def test_few_environments_stay_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def workers(environments: int, **asked: int) -> int:
        env: Any = make_vector(_walks(BOX), [{"drift": 0.0}] * environments, **asked)
        env.close()
        return int(env.workers)

    monkeypatch.delenv(WORKERS_VARIABLE, raising=False)
    assert workers(7) == 1
    assert workers(7, workers=2) == 2
    monkeypatch.setenv(WORKERS_VARIABLE, "2")
    assert workers(7) == 2
    assert workers(1) == 1
    assert workers(7, workers=1) == 1
    monkeypatch.setenv(WORKERS_VARIABLE, "many")
    with pytest.raises(ValueError, match="'many'; expected the number"):
        workers(7)


def test_distributions_that_workers_cannot_use_are_refused() -> None:
    unpicklable = _walks(BOX)
    unpicklable.lambda_ = lambda: None
    with pytest.raises(TypeError, match=f"Walks cannot be sent to worker processes: .*{WORKERS_VARIABLE}=1"):
        WorkersVectorEnv(unpicklable, TASKS, workers=2)
    with pytest.raises(WorkerError, match="expected a Box, and a Box or Discrete"):
        WorkersVectorEnv(_walks(Text(3)), TASKS, workers=2)
    for tasks in (1, 2):  # of the same worker, of another one
        odd: list[Any] = [{"drift": 0.0}, {"drift": 0.0}, {"drift": 0.0}]
        odd[tasks]["shape"] = [3, 3]
        with pytest.raises((ValueError, WorkerError), match="spaces"):
            WorkersVectorEnv(_walks(BOX), odd, workers=2)
    env = WorkersVectorEnv(_walks(BOX), TASKS, workers=2)
    with pytest.raises(ValueError, match=r"shape \(6, 2\); expected \(7, 2\)"):
        env.step(np.zeros((6, 2), np.float32))
    with pytest.raises(ValueError, match="2 seeds for 7"):
        env.reset(seed=[1, 2])
    env.close()


SCRIPT = """
import os
import multiprocessing
import numpy as np
from worker_environments import BOX, Walks
from thetaprime.training.tasks.vector_env import WorkersVectorEnv

class Mine(Walks):
    pass

if __name__ == "__main__":
    env = WorkersVectorEnv(Mine(BOX), [{"drift": 1.0}] * 4, workers=2)
    env.reset(seed=0)
    print(os.getpid(), *[each.pid for each in multiprocessing.active_children()])
    # env is left open.
"""


@pytest.mark.slow
def test_a_process_ends_with_its_workers_and_without_output(tmp_path: Path) -> None:
    (tmp_path / f"{MODULE}.py").write_text(SOURCE + "\nBOX = Box(-1.0, 1.0, (2,), np.float32)\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    ended = subprocess.run([sys.executable, "-W", "error", tmp_path / "script.py"], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    itself, *workers = map(int, ended.stdout.split())
    assert len(workers) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert not _memory(itself)
