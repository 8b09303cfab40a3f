"""Settings and fixtures that the tests of every component share."""

import os
from pathlib import Path

import hypothesis
import pytest

# Before torch is loaded: waiting OpenMP threads sleep instead of spinning. With several processes on a processor,
# spinning took half of the time of a training.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Before the modules are imported: their assertions then show their values, as those of tests do.
pytest.register_assert_rewrite("tests.support")

from tests.support.artifacts import POINT_NAVIGATION, write_untrained  # noqa: E402
from thetaprime.models import AdaptationSpec, PolicySpec  # noqa: E402

pytest_plugins = ["pytester", "tests.support.browser", "tests.support.quick", "tests.support.skips"]

# The time of an example depends on the machine's load.
hypothesis.settings.register_profile("thetaprime", deadline=None)
hypothesis.settings.load_profile("thetaprime")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts files with long tests first where several processes share the files, so that they end together."""
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def point_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of artifacts with an untrained ``point-navigation/1`` in it."""
    root = tmp_path_factory.mktemp("zoo")
    adaptation = AdaptationSpec(inner_lr=0.5)
    write_untrained(root, "point-navigation", POINT_NAVIGATION, spec=PolicySpec(), adaptation=adaptation)
    return root
