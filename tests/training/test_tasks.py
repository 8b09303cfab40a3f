from typing import Any

import gymnasium
import numpy as np
import pytest

from tests.support.training.contract import assert_meets_contract
from tests.support.training.corridor import CorridorTasks
from thetaprime.models import BoxAction, EnvironmentContract
from thetaprime.training.tasks import (
    BatchedTaskDistribution,
    OracleTasks,
    PointNavigationTasks,
    Task,
    check_task_distribution,
    make_vector,
    resolve_tasks,
)


@pytest.mark.parametrize("distribution", [PointNavigationTasks(), CorridorTasks()], ids=["ours", "a user's"])
def test_distributions_meet_the_contract(distribution: PointNavigationTasks | CorridorTasks) -> None:
    assert_meets_contract(distribution)


class _Pendulum:
    """Gymnasium's pendulum. Gymnasium's checker warns about actions in ±2."""

    environment = EnvironmentContract(
        environment_id="Pendulum-v1", observation_shape=(3,), action=BoxAction(low=(-2.0,), high=(2.0,)), horizon=200
    )

    def sample_tasks(self, count: int, rng: np.random.Generator) -> list[Task]:
        return [{"gravity": float(gravity)} for gravity in rng.uniform(4.0, 16.0, size=count)]

    def make(self, task: Task) -> gymnasium.Env[Any, Any]:
        return gymnasium.make("Pendulum-v1", g=task["gravity"])


def test_a_style_warning_of_gymnasium_does_not_fail_the_contract_test() -> None:
    assert_meets_contract(_Pendulum())


def test_batched_form_is_recognized() -> None:
    assert isinstance(PointNavigationTasks(), BatchedTaskDistribution)
    assert not isinstance(CorridorTasks(), BatchedTaskDistribution)


class _WrongHorizon(CorridorTasks):
    environment = CorridorTasks.environment.model_copy(update={"horizon": 2})


class _WrongShape(CorridorTasks):
    environment = CorridorTasks.environment.model_copy(update={"observation_shape": (2,)})


class _Irreproducible(CorridorTasks):
    drawn = 0

    def sample_tasks(self, count: int, rng: np.random.Generator) -> list[Task]:
        self.drawn += 1
        return [{"goal": float(self.drawn)}] * count


class _WrongBatched(PointNavigationTasks):
    def make(self, task: Task) -> gymnasium.Env:
        return super().make({"goal": [0.0, 0.4]})


@pytest.mark.parametrize(
    ("distribution", "problem"),
    [
        (_WrongHorizon(), "past the horizon|horizon is 2"),
        (_WrongShape(), r"observation shape \(1,\); the contract says \(2,\)"),
        (_Irreproducible(), "other tasks"),
        (_WrongBatched(), "rewards differ"),
    ],
)
def test_the_contract_test_names_each_fault(distribution: CorridorTasks, problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        check_task_distribution(distribution)


def test_the_oracle_observes_the_task() -> None:
    tasks: list[Task] = [{"goal": [0.1, 0.2]}, {"goal": [-0.3, 0.4]}]
    oracle = OracleTasks(PointNavigationTasks())
    assert oracle.environment.observation_shape == (4,)
    for env in (oracle.make_vector(tasks), make_vector(oracle, tasks)):
        observations, _ = env.reset(seed=0)
        np.testing.assert_allclose(observations, [[0, 0, 0.1, 0.2], [0, 0, -0.3, 0.4]])
        assert env.observation_space.shape == (2, 4)
    single = oracle.make(tasks[0])
    np.testing.assert_allclose(single.reset(seed=0)[0], [0, 0, 0.1, 0.2])


def test_names_are_resolved_and_unknown_ones_explained() -> None:
    assert isinstance(resolve_tasks("point-navigation"), PointNavigationTasks)
    assert isinstance(
        resolve_tasks("thetaprime.training.tasks.distributions:PointNavigationTasks"), PointNavigationTasks
    )
    with pytest.raises(ValueError, match="expected one of point-navigation"):
        resolve_tasks("navigation")
    with pytest.raises(ValueError, match="cannot be made"):
        resolve_tasks("no.such.module:Tasks")
    with pytest.raises(ValueError, match="lacks a member"):
        resolve_tasks("collections:OrderedDict")
