"""The exports of `thetaprime.client`, and the packages that importing it loads."""

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import thetaprime.client as tp

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
HEAVY = ("torch", "onnx", "gymnasium", "mujoco", "thetaprime.models", "thetaprime.server", "thetaprime.training")


def test_exported_names_exist_and_are_sorted() -> None:
    for name in tp.__all__:
        assert getattr(tp, name) is not None
    assert len(set(tp.__all__)) == len(tp.__all__)


def test_every_error_is_exported() -> None:
    errors = importlib.import_module("thetaprime.client._errors")
    public = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == errors.__name__ and not name.startswith("_")
    }
    assert public <= set(tp.__all__)


def test_every_module_but_aio_is_private() -> None:
    assert [each.name for each in pkgutil.iter_modules(tp.__path__) if not each.name.startswith("_")] == ["aio"]


def test_the_docstring_shows_the_tree_of_errors() -> None:
    errors = importlib.import_module("thetaprime.client._errors")
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, tp.ThetaPrimeError):
            assert name in (errors.__doc__ or ""), f"{name} is not drawn"
            standard = [base.__name__ for base in value.__bases__ if base.__module__ == "builtins"]
            for base in standard if value is not tp.ThetaPrimeError else []:
                assert f"{name} ({base})" in (errors.__doc__ or ""), f"{name} is drawn without {base}"


def test_importing_the_client_imports_no_heavy_package() -> None:
    code = f"import sys, thetaprime.client; print([m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_client_has_eight_dependencies_without_torch() -> None:
    names = [re.split(r"[^A-Za-z0-9_-]", each)[0].lower() for each in PROJECT["dependencies"]]
    assert len(names) <= 8
    assert not {"torch", "onnx", "gymnasium", "minari"} & set(names)


def test_the_client_imports_only_declared_dependencies() -> None:
    """The client, without the command, imports only declared dependencies and their dependencies."""
    code = """
import sys
before = set(sys.modules)
import thetaprime.client, thetaprime.client.aio
import importlib.metadata as metadata
brought = {name.split(".")[0] for name in set(sys.modules) - before}
distributions = metadata.packages_distributions()
print(sorted({each.lower() for name in brought for each in distributions.get(name, ())} - {"thetaprime"}))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    declared = {re.split(r"[^A-Za-z0-9_-]", each)[0].lower() for each in PROJECT["dependencies"]}
    undeclared = set(ast.literal_eval(result.stdout)) - declared - {"typing_extensions"}
    # Several distributions provide google.*; grpcio-status depends on one of them.
    assert not {each for each in undeclared if not each.startswith(("google", "grpc", "mypy", "types"))}
