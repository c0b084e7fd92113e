"""A package made on the spot, so that tasks can be built without a network."""

from __future__ import annotations

from pathlib import Path

from swe_gym_env import paths
from swe_gym_env.tasks.pypi import fetch
from swe_gym_env.tasks.pypi.catalog import PYTEST, Package

SOURCE = '''"""Words."""


def initials(text, sep=" "):
    """First letters."""
    out = []
    for word in text.split(sep):
        if word and word[0] != "-":
            out.append(word[0].upper())
    return "".join(out)


def clamp(value, low, high):
    if low > high:
        raise ValueError("low > high")
    if value < low:
        return low
    return high if value > high else value


def spin(n):
    while n > 0:
        n -= 1
    return n
'''
TESTS = """import pytest
from tiny import clamp, initials, spin


def test_initials():
    assert initials("ada lovelace") == "AL"


def test_skips():
    assert initials("a -b c") == "AC"


@pytest.mark.parametrize("value, want", [(0, 1), (2, 2), (9, 3)])
def test_clamp(value, want):
    assert clamp(value, 1, 3) == want


def test_order():
    with pytest.raises(ValueError):
        clamp(1, 3, 2)


def test_spin():
    assert spin(3) == 0


def test_nothing():
    assert True


def test_little():
    assert initials("") == ""


def test_set_order():
    assert len({"a", "b"}) == 2
"""


def own_store(folder: Path) -> Path:
    """A separate store; the environment with pytest in it is made once and shared."""
    fetch.environment_for("pytest", PYTEST)
    home = folder / "home"
    home.mkdir()
    (home / "envs").symlink_to(paths.home() / "envs")
    return home


def tiny_package(folder: Path, loop: bool = True) -> Package:
    """The package in ``folder``. Without ``loop`` no bug of it runs until the time limit."""
    source, tests = SOURCE, TESTS
    if not loop:
        source = source.partition("\n\n\ndef spin")[0] + "\n"
        tests = tests.replace("def test_spin():\n    assert spin(3) == 0\n\n\n", "")
        tests = tests.replace(", spin", "")
        assert "spin" not in source + tests
    root = folder / "tiny-src"
    (root / "tiny").mkdir(parents=True)
    (root / "tests").mkdir()
    (root / "tiny" / "__init__.py").write_text(source)
    (root / "tests" / "test_tiny.py").write_text(tests)
    return Package("tiny", "1", sources=("tiny",), tests=("tests",), unseen=True, local=str(root))
