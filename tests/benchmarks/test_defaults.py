"""The measurement of the recipe's defaults: its families, which stand for those of users, and its table."""

import pytest

from benchmarks.defaults import families
from benchmarks.defaults.run import BEGIN, END, PAGE, table
from thetaprime.training import TaskDistribution, check_task_distribution


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "family",
    [families.PendulumMotor(), families.CartPole(), families.Acrobot(), families.InvertedDoublePendulum()],
    ids=lambda family: type(family).__name__,
)
def test_a_family_keeps_the_contract(family: TaskDistribution) -> None:
    check_task_distribution(family)


def test_the_page_shows_what_was_measured() -> None:
    assert BEGIN + table() + END in PAGE.read_text()
