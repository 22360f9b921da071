"""If CI is set, a skip that is not on the list of allowed skips is a failure: CI has everything the tests need."""

import os
import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pytest

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


@dataclass(frozen=True)
class AllowedSkip:
    """A test that may be skipped if the reason matches the regular expression and the condition holds."""

    test: str
    """file.py::name or file.py::Class::name, without parameters."""
    reason: str
    where: Callable[[], bool]

    def allows(self, node: str, reason: str) -> bool:
        """Whether the test with this node id may be skipped for this reason here."""
        test = node.partition("[")[0].rpartition("/")[2]
        return test == self.test and re.search(self.reason, reason) is not None and self.where()


class UnlistedSkips:
    """A pytest plugin that turns every skip that is not on the list into a failure, if CI is set."""

    def __init__(self, allowed: Sequence[AllowedSkip]) -> None:
        self._allowed = allowed

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Checks the skip of a test, by itself, its mark or its fixture."""
        return self._checked((yield))

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Checks the skip of a whole file."""
        return self._checked((yield))

    def _checked(self, report: Report) -> Report:
        if not report.skipped or hasattr(report, "wasxfail") or not os.environ.get("CI"):
            return report
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        if not any(each.allows(report.nodeid, reason) for each in self._allowed):
            report.outcome = "failed"
            report.longrepr = (
                f"CI is set, and tests/allowed_skips.py does not list this skip of {report.nodeid}: {reason}"
            )
        return report
