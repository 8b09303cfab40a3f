"""What `thetaprime.client` exports, and what importing it costs."""

import importlib
import pkgutil
import subprocess
import sys

import thetaprime.client as tp

HEAVY = ("torch", "onnx", "gymnasium", "mujoco", "thetaprime.models", "thetaprime.server", "thetaprime.training")


def test_every_exported_name_exists_and_the_list_is_sorted_as_ruff_sorts_it() -> None:
    for name in tp.__all__:
        assert getattr(tp, name) is not None
    assert len(set(tp.__all__)) == len(tp.__all__)


def test_every_public_name_of_the_private_modules_error_tree_is_exported() -> None:
    errors = importlib.import_module("thetaprime.client._errors")
    public = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == errors.__name__ and not name.startswith("_")
    }
    assert public <= set(tp.__all__)


def test_every_module_is_private_but_that_for_asyncio() -> None:
    assert [each.name for each in pkgutil.iter_modules(tp.__path__) if not each.name.startswith("_")] == ["aio"]


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    errors = importlib.import_module("thetaprime.client._errors")
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, tp.ThetaPrimeError):
            assert name in (errors.__doc__ or ""), f"{name} is not drawn"
            standard = [base.__name__ for base in value.__bases__ if base.__module__ == "builtins"]
            for base in standard if value is not tp.ThetaPrimeError else []:
                assert f"{name} ({base})" in (errors.__doc__ or ""), f"{name} is drawn without {base}"


def test_importing_the_client_imports_nothing_heavy() -> None:
    code = f"import sys, thetaprime.client; print([m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
