"""The runtimes that the tests run ONNX files in."""

import functools
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.support.models.runtimes import Runtime, install_or_skip, installed, run_elsewhere, run_newest

HERE: Final = Path(__file__).parent
OLDEST: Final = ("onnxruntime==1.17.3", "numpy==1.26.4")


@pytest.fixture(scope="session")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    """The oldest onnxruntime that `pyproject.toml` allows, in another process."""

    def install(folder: Path) -> None:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install"]
        options = ["--no-deps", "--only-binary=:all:", "--target", str(folder)]
        install_or_skip(OLDEST[0], [*pip, *options, *OLDEST], folder)

    folder = installed("oldest", f"{sys.version_info[:2]} {OLDEST}", install)
    command = [sys.executable, str(HERE / "run.py"), str(folder)]
    return functools.partial(run_elsewhere, tmp_path_factory.mktemp("oldest"), command)


@pytest.fixture(scope="session")
def javascript(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Runtime]:
    """onnxruntime-node (``native``) or onnxruntime-web (``web``), in Node."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("needs Node.js with npm: https://nodejs.org")
    sources = {name: (HERE / name).read_text() for name in ("package.json", "package-lock.json")}

    def install(folder: Path) -> None:
        for name, text in sources.items():
            (folder / name).write_text(text)
        npm_ci = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        install_or_skip("onnxruntime for Node", npm_ci, folder)

    folder = installed("javascript", "".join(sources.values()), install)
    # Node looks for packages beside the script.
    script = Path(shutil.copy(HERE / "run.mjs", folder))

    def runtime(kind: str) -> Runtime:
        command = [node, str(script), kind]
        return functools.partial(run_elsewhere, tmp_path_factory.mktemp(kind), command)

    return runtime


@pytest.fixture(scope="session", params=["newest", "oldest", "native", "web"])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    if request.param == "newest":
        return run_newest
    if request.param == "oldest":
        found: Runtime = request.getfixturevalue("oldest")
        return found
    javascript: Callable[[str], Runtime] = request.getfixturevalue("javascript")
    return javascript(request.param)
