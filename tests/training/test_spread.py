"""Tasks that are spread evenly over a distribution."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.training.corridor import CorridorTasks
from tests.support.training.tiny import tiny_config
from thetaprime.training.run import train
from thetaprime.training.tasks import OracleTasks, SpreadTaskDistribution, resolve_tasks
from thetaprime.training.tasks.spread import shifted_lattice, spread_tasks


@pytest.mark.parametrize("name", ["point-navigation", "half-cheetah-velocity", "ant-velocity"])
def test_uniform_points_give_the_tasks_of_the_distribution(name: str) -> None:
    distribution = resolve_tasks(name)
    assert isinstance(distribution, SpreadTaskDistribution)
    points = np.random.default_rng(3).random((20, distribution.task_dimensions))
    assert distribution.tasks_at(points) == distribution.sample_tasks(20, np.random.default_rng(3))


def test_points_are_even_and_each_is_uniform() -> None:
    rng = np.random.default_rng(0)
    for dimensions in (1, 2, 3):
        draws = np.stack([shifted_lattice(20, dimensions, rng) for _ in range(500)])
        assert ((draws >= 0.0) & (draws <= 1.0)).all()
        # Each point alone: mean 1/2 and variance 1/12, to four standard errors.
        np.testing.assert_allclose(draws.mean(0), 0.5, atol=4 * (1 / 12 / 500) ** 0.5)
        np.testing.assert_allclose(draws.var(0), 1 / 12, atol=4 * (1 / 180 / 500) ** 0.5)
        # Together: the mean of a smooth function has a fraction of the noise of independent points.
        for smooth in (draws[..., -1], np.prod(np.cos(np.pi * draws / 2), axis=-1)):
            assert smooth.mean(1).std() < 0.35 * smooth.std() / 20**0.5


def test_the_oracle_s_tasks_are_spread_too() -> None:
    distribution = resolve_tasks("half-cheetah-velocity")
    spread = spread_tasks(OracleTasks(distribution), 4, np.random.default_rng(0))
    assert spread == spread_tasks(distribution, 4, np.random.default_rng(0))
    goals = sorted(float(np.asarray(task["goal"])) for task in spread)
    assert np.diff(goals).max() <= 1.0 and sum(goals) == pytest.approx(4.0)


def test_a_run_spreads_its_tasks(tmp_path: Path) -> None:
    config = tiny_config({"iterations": 1})
    states = [
        train(config.model_copy(update={"spread_tasks": spread}), tmp_path / str(spread)) for spread in (False, True)
    ]
    assert (states[0].parameters["log_std"] != states[1].parameters["log_std"]).any()


@pytest.mark.parametrize("distribution", [CorridorTasks(), OracleTasks(CorridorTasks())], ids=["plain", "oracle"])
def test_tasks_that_cannot_be_spread_are_refused_by_name(distribution: CorridorTasks) -> None:
    with pytest.raises(ValueError, match=r"spread_tasks: true; \w+Tasks lacks task_dimensions or tasks_at\(points\)"):
        spread_tasks(distribution, 3, np.random.default_rng(0))
