"""A skipped test is listed, or fails where none may be skipped."""

import pytest

from tests.support import skips

_TESTS = """
import pytest

def test_without_a_program():
    pytest.skip("needs Chromium: apt-get install chromium")

@pytest.mark.skipif(True, reason="needs Chromium: apt-get install chromium")
def test_without_the_same_program():
    pass

@pytest.fixture
def node():
    pytest.skip("needs Node.js")

def test_without_another_program(node):
    pass

@pytest.mark.xfail(raises=ValueError)
def test_that_fails_as_expected():
    raise ValueError

def test_that_runs():
    pass
"""
_MODULE = 'import pytest\npytest.importorskip("a_package_that_is_missing", reason="needs a package")'


@pytest.fixture
def tests(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(test_functions=_TESTS, test_module=_MODULE)
    return pytester


def _run(tests: pytest.Pytester) -> pytest.RunResult:
    return tests.runpytest_inprocess("-p", skips.__name__, "-p", "no:cacheprovider")


def test_skipped_tests_are_listed_in_one_line(tests: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(skips.VARIABLE, raising=False)
    result = _run(tests)
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=1, skipped=4, xfailed=1)
    (line,) = [line for line in result.outlines if line.startswith("4 skipped: ")]
    assert "needs Chromium: apt-get install chromium (2)" in line
    assert "needs Node.js (1)" in line and "needs a package (1)" in line


def test_a_skip_is_a_failure_where_none_is_allowed(tests: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(skips.VARIABLE, "1")
    result = _run(tests)
    assert result.ret == pytest.ExitCode.INTERRUPTED  # a module was skipped
    result.stdout.fnmatch_lines(["*test_module.py was skipped, and *allows no skip: needs a package"])
    (tests.path / "test_module.py").unlink()
    result = _run(tests)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=1, errors=2, xfailed=1)
    result.stdout.fnmatch_lines(
        ["*test_without_a_program was skipped, and *: needs Chromium: apt-get install chromium"]
    )
    assert not [line for line in result.outlines if " skipped: " in line]


def test_without_skips_nothing_is_listed(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(skips.VARIABLE, raising=False)
    pytester.makepyfile("def test_that_runs():\n    pass")
    result = _run(pytester)
    result.assert_outcomes(passed=1)
    assert "skipped" not in result.stdout.str()
