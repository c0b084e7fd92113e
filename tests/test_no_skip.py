"""The mode in which nothing may be skipped does what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = (Path(__file__).parent / "support" / "no_skip.py").read_text()
TESTS = """
import pytest

@pytest.fixture
def part():
    pytest.skip("no such part")

def test_skips(): pytest.skip("not here")
def test_needs(part): pass
@pytest.mark.skipif(True, reason="never")
def test_marked(): pass
@pytest.mark.xfail
def test_known(): assert False
def test_fine(): pass
"""


def _closing_line(folder: Path, no_skip: str) -> str:
    (folder / "conftest.py").write_text(PLUGIN)
    (folder / "test_it.py").write_text(TESTS)
    (folder / "test_module.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")
    environment = os.environ | {"SWE_GYM_NO_SKIP": no_skip}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.slow
def test_skips_are_failures_only_in_that_mode(tmp_path: Path) -> None:
    assert "1 passed, 4 skipped, 1 xfailed" in _closing_line(tmp_path, "")
    line = _closing_line(tmp_path, "1")
    assert "skipped" not in line and ("error" in line or "3 failed" in line)
