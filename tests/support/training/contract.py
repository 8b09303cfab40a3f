"""The check of a task distribution against its contract, with its counterexample."""

import pytest

from thetaprime.training.tasks import TaskDistribution, check_task_distribution


class _OtherObservations:
    """A distribution whose contract has one number more in each observation than its environments send."""

    def __init__(self, distribution: TaskDistribution) -> None:
        (size,) = distribution.environment.observation_shape
        self.environment = distribution.environment.model_copy(update={"observation_shape": (size + 1,)})
        self.sample_tasks, self.make = distribution.sample_tasks, distribution.make


def assert_meets_contract(distribution: TaskDistribution) -> None:
    """Checks a distribution of flat observations, and that the check refuses it with another contract."""
    check_task_distribution(distribution)
    with pytest.raises(AssertionError, match="observation shape"):
        check_task_distribution(_OtherObservations(distribution))
