"""A mode in which nothing is skipped: SWE_GYM_NO_SKIP=1 turns every skip into a failure.

A skipped test of a real part (a browser, a sandbox, a model) proves nothing, so continuous
integration sets it.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TypeVar

import pytest

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def _strict(report: Report) -> Report:
    if os.environ.get("SWE_GYM_NO_SKIP") == "1" and report.skipped:
        if hasattr(report, "wasxfail"):
            return report
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"nothing may be skipped here (SWE_GYM_NO_SKIP=1), but: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _strict((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _strict((yield))
