"""`UNIMUX_FORBID_SKIPS=1`: a test that is skipped or expected to fail counts as failed.

Only a developer's own machine may lack what a test needs; CI sets the variable.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TypeVar

import pytest

VARIABLE = "UNIMUX_FORBID_SKIPS"
Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def forbidden() -> bool:
    """Whether this session forbids skips."""
    return os.environ.get(VARIABLE, "") not in ("", "0")


def _fail_if_skipped(report: Report) -> Report:
    if report.outcome == "skipped" and forbidden():
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else getattr(report, "wasxfail", "")
        report.outcome = "failed"
        report.longrepr = f"{VARIABLE} is set, and this was not run or was expected to fail: {why}"
        if hasattr(report, "wasxfail"):
            del report.wasxfail
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _fail_if_skipped((yield))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _fail_if_skipped((yield))
