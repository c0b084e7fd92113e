"""What all tests share: where caches and recorded data lie, and a mode in which nothing is skipped.

A skipped test of a real part (a browser, a sandbox, a model) proves nothing, so continuous
integration sets SWE_GYM_NO_SKIP=1, which turns every skip into a failure.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import pytest

pytest_plugins = ["tests.support.costs"]

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("SWE_GYM_HOME", str(ROOT / ".cache"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Recorded task rows and trajectories that are no part of the project."""
    folder = Path(os.environ.get("SWE_GYM_SHARED_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no recorded data in {folder}; SWE_GYM_SHARED_DATA says where it lies")
    return folder


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
