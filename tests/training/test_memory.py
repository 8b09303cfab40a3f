"""A run that cannot fit into memory is refused before it starts, by its size alone: nothing large is allocated."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from tests.support.training.corridor import CorridorTasks
from thetaprime.models import DiscreteAction, EnvironmentContract
from thetaprime.training import check_task_distribution, resources
from thetaprime.training.config import load_config
from thetaprime.training.resources import NotEnoughMemoryError, available_memory, check_memory
from thetaprime.training.run import train
from thetaprime.training.tasks import Task


class Camera(gymnasium.Env[Any, Any]):
    """Shows a black picture for three steps."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self) -> None:
        self.observation_space, self.action_space = Box(0.0, 1.0, (84, 84, 3), np.float32), Discrete(2)
        self._elapsed = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._elapsed = 0
        return np.zeros((84, 84, 3), np.float32), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._elapsed += 1
        return np.zeros((84, 84, 3), np.float32), float(action), False, self._elapsed >= 3, {}


class CameraTasks:
    """Pictures of 84 x 84 pixels in three colors."""

    environment = EnvironmentContract(
        environment_id="Camera", observation_shape=(84, 84, 3), action=DiscreteAction(count=2), horizon=3
    )

    def sample_tasks(self, count: int, rng: np.random.Generator) -> list[Task]:
        return [{"goal": float(goal)} for goal in rng.uniform(size=count)]

    def make(self, task: Task) -> gymnasium.Env[Any, Any]:
        return Camera()


class _GrayCameraTasks(CameraTasks):
    """Its contract promises one color."""

    environment = CameraTasks.environment.model_copy(update={"observation_shape": (84, 84, 1)})


REFUSED = (
    r"observation: \(84, 84, 3\) is 21,168 numbers, for which training needs about 5\d\.\d GB of memory "
    r"\(5\d\.\d GB for the baseline, whose matrices are 42,341 x 42,341 float64; 0\.\d GB for the trajectories of 20 "
    r"tasks\); 16\.0 GB are available: give a smaller observation"
)


@pytest.fixture
def sixteen_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "available_memory", lambda: 16 * 10**9)


@pytest.mark.usefixtures("sixteen_gigabytes")
def test_pictures_whose_baseline_does_not_fit_fail_the_contract_test() -> None:
    with pytest.raises(AssertionError, match=REFUSED):
        check_task_distribution(CameraTasks())


@pytest.mark.usefixtures("sixteen_gigabytes")
@pytest.mark.parametrize("method", ["maml", "pretrained"])
def test_training_on_pictures_is_refused_before_it_begins(tmp_path: Path, method: str) -> None:
    config = load_config(None, {"tasks": f"{__name__}:CameraTasks", "method": method})
    with pytest.raises(NotEnoughMemoryError, match=REFUSED):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_same_pictures_pass_where_there_is_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "available_memory", lambda: 10**12)
    check_task_distribution(CameraTasks())
    with pytest.raises(AssertionError, match=r"observation shape \(84, 84, 3\)"):
        check_task_distribution(_GrayCameraTasks())


@pytest.mark.usefixtures("sixteen_gigabytes")
def test_many_long_trajectories_are_refused_with_the_settings_that_help() -> None:
    environment = CorridorTasks.environment.model_copy(update={"observation_shape": (300,), "horizon": 10_000})
    config = load_config(None, {"tasks": "corridor", "meta_batch_size": 200})
    with pytest.raises(NotEnoughMemoryError, match=r"trajectories of 200 tasks.*lower meta_batch_size or adaptation"):
        check_memory(environment, config)
    check_memory(environment, load_config(None, {"tasks": "corridor", "meta_batch_size": 2}))


def test_the_available_memory_is_below_the_machines() -> None:
    available = available_memory()
    assert available is not None and 10**7 < available < 10**14


@pytest.mark.parametrize(("available", "refused"), [(None, False), (10**12, False), (10**6, True)])
def test_nothing_is_refused_without_a_known_limit(
    monkeypatch: pytest.MonkeyPatch, available: int | None, refused: bool
) -> None:
    monkeypatch.setattr(resources, "available_memory", lambda: available)
    found = False
    try:
        check_memory(CameraTasks.environment, load_config(None, {"tasks": "camera"}))
    except NotEnoughMemoryError:
        found = True
    assert found == refused
