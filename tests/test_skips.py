"""If CI is set, a test is skipped for a listed reason or fails; each entry of the list names an existing test."""

import ast
from pathlib import Path

import pytest
from allowed_skips import ALLOWED

pytest_plugins = ["pytester"]

CONFTEST = """
from helpers.skips import AllowedSkip, UnlistedSkips

def pytest_configure(config):
    allowed = [
        AllowedSkip("test_it.py::test_listed", "^no card", lambda: True),
        AllowedSkip("test_it.py::test_elsewhere", "^no card", lambda: False),
        AllowedSkip("test_it.py::TestClass::test_inside", "^no", lambda: True),
    ]
    config.pluginmanager.register(UnlistedSkips(allowed))
"""
TESTS = """
import pytest

@pytest.mark.parametrize("number", [1, 2])
def test_listed(number):
    pytest.skip("no card here")

def test_elsewhere():
    pytest.skip("no card here")

class TestClass:
    @pytest.mark.skipif(True, reason="no card")
    def test_inside(self):
        pass

@pytest.mark.skipif(True, reason="no card here")
def test_by_a_mark():
    pass

@pytest.fixture
def card():
    pytest.skip("no card here")

def test_by_a_fixture(card):
    pass

@pytest.mark.xfail(reason="known")
def test_that_is_known_to_fail():
    assert False

def test_that_runs():
    pass
"""


@pytest.fixture
def run(pytester, monkeypatch):
    """Runs a file of tests in a separate pytest with the list above, in CI or elsewhere."""

    def run(tests, ci):
        monkeypatch.delenv("CI", raising=False)
        if ci:
            monkeypatch.setenv("CI", "true")
        pytester.makeconftest(CONFTEST)
        pytester.makepyfile(test_it=tests)
        return pytester.runpytest_inprocess("-q")

    return run


def test_elsewhere_every_skip_is_a_skip(run):
    result = run(TESTS, ci=False)
    result.assert_outcomes(passed=1, skipped=6, xfailed=1)
    assert result.ret == pytest.ExitCode.OK


def test_in_ci_only_listed_skips_are(run):
    result = run(TESTS, ci=True)
    result.assert_outcomes(passed=1, skipped=3, xfailed=1, failed=1, errors=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    unlisted = "*CI is set, and tests/allowed_skips.py does not list this skip of test_it.py::{}: no card here"
    for name in ("test_elsewhere", "test_by_a_mark", "test_by_a_fixture"):
        result.stdout.fnmatch_lines([unlisted.format(name)])


def test_another_reason_is_not_listed(run):
    tests = TESTS.replace('pytest.skip("no card here")', 'pytest.skip("out of order")', 1)
    result = run(tests, ci=True)
    result.assert_outcomes(passed=1, skipped=1, xfailed=1, failed=3, errors=2)
    result.stdout.fnmatch_lines(["*this skip of test_it.py::test_listed?1?: out of order"])


def test_a_whole_file_may_not_be_skipped(run):
    tests = 'import pytest\npytest.skip("no card here", allow_module_level=True)\n'
    run(tests, ci=False).assert_outcomes(skipped=1)
    result = run(tests, ci=True)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*does not list this skip of test_it.py: no card here"])


@pytest.mark.parametrize("entry", ALLOWED, ids=lambda entry: f"{entry.test} {entry.reason}")
def test_each_entry_is_of_a_test(entry):
    file, *names = entry.test.split("::")
    scope = ast.parse((Path(__file__).parent / file).read_text(encoding="utf-8"))
    for name in names:
        found = [each for each in scope.body if isinstance(each, ast.FunctionDef | ast.ClassDef) and each.name == name]
        assert found, f"there is no test {entry.test}: take it off tests/allowed_skips.py"
        [scope] = found
