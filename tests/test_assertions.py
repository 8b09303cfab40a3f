"""Every test asserts something."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

_TESTS: Final = Path(__file__).parent
# Parts of the names of functions that assert.
_ASSERTING: Final = ("assert", "raises", "warns", "fail", "refuses", "check", "fnmatch_lines")
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(tree: ast.AST) -> Iterator[_Function]:
    return (node for node in ast.walk(tree) if isinstance(node, _Function))


def _asserts(function: _Function) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call) and any(word in ast.unparse(node.func).rpartition(".")[2] for word in _ASSERTING):
            return True
    return False


def _without_assertion(source: str) -> list[str]:
    return [
        function.name
        for function in _functions(ast.parse(source))
        if function.name.startswith("test_") and not _asserts(function)
    ]


@pytest.mark.parametrize("file", sorted(_TESTS.rglob("test_*.py")), ids=lambda file: str(file.relative_to(_TESTS)))
def test_every_test_asserts_something(file: Path) -> None:
    assert _without_assertion(file.read_text(encoding="utf-8")) == []


def test_a_test_without_an_assertion_is_found() -> None:
    bodies = {"test_without": "run()", "test_with": "assert run()", "test_numpy": "np.testing.assert_equal(run(), 1)"}
    source = "\n".join(f"def {name}():\n    {body}" for name, body in bodies.items())
    assert _without_assertion(source) == ["test_without"]
