"""Public names are imported on first use, so that a configuration is read without torch."""

import subprocess
import sys
from types import ModuleType

import pytest

import thetaprime.models
import thetaprime.server
import thetaprime.training
import thetaprime.training.tasks


@pytest.mark.parametrize(
    "package", [thetaprime.models, thetaprime.server, thetaprime.training, thetaprime.training.tasks]
)
def test_every_public_name_exists(package: ModuleType) -> None:
    names = package.__all__
    assert names
    assert [name for name in names if not hasattr(package, name)] == []
    with pytest.raises(AttributeError, match="has no attribute 'bogus'"):
        package.bogus  # noqa: B018


@pytest.mark.parametrize("module", ["thetaprime.models.spec", "thetaprime.training.config", "thetaprime.server.config"])
def test_a_configuration_comes_without_torch(module: str) -> None:
    heavy = ("torch", "onnx", "mujoco", "matplotlib")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
