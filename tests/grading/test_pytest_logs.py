"""Logs of a real pytest, under the settings that repositories have: what counts is read in each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from swe_gym_env.grading import parsers

TESTS = """
import unittest
import pytest

def test_good(): print("PASSED t.py::test_fake")
def test_bad(): assert 1 == 2, "first line\\n=== 3 passed in 0.1s ===\\nlast line"
@pytest.mark.xfail(reason="some day")
def test_known(): assert 0
@pytest.mark.xfail(strict=True)
def test_strict(): pass
@pytest.mark.skip(reason="no")
def test_skipped(): pass
@pytest.fixture
def torn():
    yield
    raise ValueError("teardown")
def test_torn(torn): pass
@pytest.mark.parametrize("x", ["a b", "a - b", "é", "x::y", "[z]", "\\x1b[31mred", "a\\nb"])
def test_p(x): pass
class TestCases(unittest.TestCase):
    def test_some_fail(self):
        for i in range(3):
            with self.subTest("why (not)", i=i): self.assertNotEqual(i, 1)
    def test_none_fails(self):
        for i in range(3):
            with self.subTest(i=i): pass
"""
EXPECTED = {
    "test_good": "PASSED",
    "test_bad": "FAILED",
    "test_known": "XFAIL",
    "test_strict": "FAILED",
    "test_torn": "ERROR",
    "test_p[a b]": "PASSED",
    "test_p[a - b]": "PASSED",
    "test_p[\\xe9]": "PASSED",
    "test_p[x::y]": "PASSED",
    "test_p[a\\nb]": "PASSED",
    "TestCases::test_none_fails": "PASSED",
}
SETTINGS = {
    "plain": ([], {}),
    "quiet": (["-q"], {}),
    "verbose": (["-v"], {}),
    "very verbose": (["-vv"], {}),
    "continuous integration": ([], {"CI": "1"}),
    "color": (["--color=yes"], {}),
    "quiet color": (["--color=yes", "-q"], {}),
    "narrow": ([], {"COLUMNS": "20"}),
    "wide": ([], {"COLUMNS": "400"}),
    "durations": (["--durations=3"], {}),
    "printed": (["-s"], {}),
    "classic": (["-o", "console_output_style=classic"], {}),
    "short tracebacks": (["--tb=short"], {}),
    "stopped": (["--maxfail=30"], {}),
    "deselected": (["--deselect", "t.py::nothing", "-k", "not nothing"], {}),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_gives_the_same_statuses(tmp_path: Path, name: str) -> None:
    words, env = SETTINGS[name]
    (tmp_path / "t.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", "t.py", *words]
    clean = {k: v for k, v in os.environ.items() if k not in ("CI", "BUILD_NUMBER", "COLUMNS")}
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**clean, **env}
    )
    wanted = {f"t.py::{test}": status for test, status in EXPECTED.items()}
    for log in (done.stdout, done.stdout.replace("\n", "\r\n")):
        found = parsers.pytest_summary(log, wanted)
        assert {test: found.get(test) for test in wanted} == wanted, log[-3000:]
        if "SUBFAIL" in log:  # pytest 9, or its plugin
            assert found["t.py::TestCases::test_some_fail"] == "FAILED"
        words_found = parsers.pytest_words(log, {"t.py::test_good", "t.py::test_bad"})
        assert words_found["t.py::test_good"] == "PASSED"
        assert words_found["t.py::test_bad"] == "FAILED"
