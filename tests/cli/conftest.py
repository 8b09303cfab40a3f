"""Fixtures: the command in this process, artifacts, and a server."""

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.artifacts import write_untrained
from tests.support.command import Command
from thetaprime import models
from thetaprime.cli import cli
from thetaprime.server import ServerConfig, running_server
from thetaprime.training.evaluation.comparisons import Comparison, comparison_files
from thetaprime.training.tasks import OracleTasks, PointNavigationTasks


@pytest.fixture
def thetaprime() -> Command:
    """Runs the command in this process, as ``thetaprime("models", "--local")``."""
    return lambda *args: CliRunner().invoke(cli, [str(arg) for arg in args], prog_name="thetaprime")


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained point-navigation with its comparisons, and an untrained cart-pole."""
    root = tmp_path_factory.mktemp("zoo")
    tasks = PointNavigationTasks()
    spec = models.PolicySpec(hidden_sizes=(8,), init_log_std=-1.0)
    policy = models.Policy(tasks.environment, spec)
    oracle_policy = models.Policy(OracleTasks(tasks).environment, spec)
    comparisons = {
        "pretrained": Comparison(policy, policy.init(1)),
        "random": Comparison(policy, policy.init(2)),
        "oracle": Comparison(oracle_policy, oracle_policy.init(3)),
    }
    write = functools.partial(
        write_untrained, root, spec=spec, adaptation=models.AdaptationSpec(trajectories_per_round=3)
    )
    write("point-navigation", tasks.environment, extra_files=comparison_files(comparisons))
    cart_pole = models.EnvironmentContract(
        environment_id="CartPole-v1",
        observation_shape=(4,),
        action=models.DiscreteAction(count=2),
        horizon=30,
    )
    write("cart-pole", cart_pole)
    return root


@pytest.fixture(scope="module")
def address(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    config = ServerConfig(address="127.0.0.1:0", store=tmp_path_factory.mktemp("store"), zoo=(zoo,))
    with running_server(config) as host_and_port:
        yield host_and_port
