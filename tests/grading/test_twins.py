"""Twins differ from their tests in one place, and what passes the test fails the twin."""

from __future__ import annotations

import difflib
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from swe_gym_env.grading.twins import twin

MODULE = '''import asyncio, unittest
import pytest
from math import sqrt

def test_value():
    assert sqrt(4) == 2
def test_line(): assert sqrt(4)
def test_text():
    assert "é" + "a" == "éa", "why"  # é
def test_two_sides():
    found = [1]
    assert found == list((1,))
def test_list():
    assert [n for n in range(2)] == [
        0,
        1,
    ]
def test_none():
    assert print() is None
def test_not():
    assert not [], "why"
def test_in():
    assert 1 in [1]
def test_near():
    assert sqrt(2) == pytest.approx(1.41421356)
def test_any():
    assert (
        sqrt(4)
        and 1
    )
def test_raises():
    with pytest.raises(ValueError):
        sqrt(-1)
    # the end
def test_loop():
    for n in (1, 2):
        assert n * n == n ** 2
@pytest.mark.parametrize("n, wanted", [(1, 1), (4, 2)])
def test_many(n, wanted):
    assert sqrt(n) == wanted
def test_early():
    if sqrt(4):
        assert sqrt(9) == 3
        return
    assert 0
def test_branch():
    if sqrt(4) == 3:
        assert sqrt(4) == 4
    else:
        with pytest.raises(AssertionError):
            assert sqrt(4) == 3
        assert sqrt(4) in (2, 1)
def test_branch_that_raises():
    if sqrt(4) == 2:
        with pytest.raises(ValueError): sqrt(-1)  # why
    else:
        assert sqrt(4) == 2
class TestGroup:
    def test_value(self):
        assert sqrt(9) == 3
class Case(unittest.TestCase):
    def test_equal(self):
        """The headline of a test.

        More."""
        self.assertEqual(sqrt(4), 2)
    def test_true(self):
        self.assertTrue(sqrt(4) == 2)
    def test_raises(self):
        with self.assertRaises(ValueError):
            sqrt(-1)
    def test_dict(self):
        self.assertEqual({"a": 1}, dict(a=1), msg="no")
'''
NAMES = [line.split("def ")[1].split("(")[0] for line in MODULE.split("\n") if "def test" in line]
GROUPS = {"Case": ("test_equal", "test_true", "test_raises", "test_dict")}
IDS = [f"test_x.py::{name}" for name in dict.fromkeys(NAMES) if name not in GROUPS["Case"][:2]]
IDS = [test for test in IDS if not test.endswith("test_dict")]
IDS += ["test_x.py::TestGroup::test_value", *(f"test_x.py::Case::{n}" for n in GROUPS["Case"])]


def outcomes(folder: Path, source: bytes) -> dict[str, str]:
    (folder / "test_x.py").write_bytes(source)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-q", "-p", "no:cacheprovider", "test_x.py"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    lines = [line.split(" ") for line in done.stdout.split("\n") if "test_x.py::" in line]
    return {words[1].partition("[")[0]: words[0] for words in lines if words[0].isupper()}


@pytest.mark.parametrize("seed", range(2))
def test_each_test_passes_and_its_twin_fails(seed: int, tmp_path: Path) -> None:
    source = MODULE.encode()
    new, changed = twin(source, IDS, Random(seed))
    assert sorted(changed) == sorted(IDS)
    if seed == 0:
        assert set(outcomes(tmp_path, source).values()) == {"PASSED"}
    found = outcomes(tmp_path, new)
    assert {test: found[test] for test in IDS} == dict.fromkeys(IDS, "FAILED")


@pytest.mark.parametrize(
    "test, line",
    [
        ("test_x.py::test_value", "assert sqrt(4) =="),
        ("test_x.py::test_many[4-2]", "assert sqrt(n) == (wanted,"),
        ("test_equal (pkg.test_x.Case)", "self.assertEqual(sqrt(4),"),
        ("test_true (pkg.test_x.Case.test_true)", "self.assertFalse"),
        ("The headline of a test.", "self.assertEqual(sqrt(4),"),
        ("test_in", "assert 1 not in [1]"),
        ("test_x.py::TestGroup::test_value", "assert sqrt(9) =="),
    ],
)
def test_one_line_of_the_named_test_differs(test: str, line: str) -> None:
    new, changed = twin(MODULE.encode(), [test], Random(1))
    assert changed == [test]
    lines = difflib.ndiff(MODULE.splitlines(), new.decode().splitlines())
    (added,) = [text[2:].strip() for text in lines if text.startswith("+ ")]
    assert added.startswith(line)


@pytest.mark.parametrize(
    "encoding, end", [("latin-1", "\n"), ("utf-8", "\r\n"), ("utf-8-sig", "\n")]
)
def test_encodings_and_line_ends_are_kept(encoding: str, end: str) -> None:
    cookie = "# coding: latin-1\n" if encoding == "latin-1" else ""
    text = (cookie + "def test_a():\n    assert 'é' + f() == 'éa'\n    # ü\n").replace("\n", end)
    new, changed = twin(text.encode(encoding), ["t.py::test_a"], Random(0))
    assert changed == ["t.py::test_a"]
    assert new.decode(encoding).count(end) == text.count(end)
    assert "# ü" in new.decode(encoding) and new != text.encode(encoding)


def test_what_cannot_be_changed_stays_as_it_is() -> None:
    for source in (b"def test_a(:\n", b"\xff\xfe", b"x = 1\n", b""):
        assert twin(source, ["t.py::test_a"], Random(0)) == (source, [])
    source = b"def test_other():\n    assert 1\n"
    assert twin(source, ["t.py::test_a"], Random(0)) == (source, [])


def test_one_output_of_a_doctest_differs() -> None:
    source = b"Title\n\n>>> 1 + 1\n2\n\n>>> x = (1,\n...      2)\n>>> x\n(1, 2)\n"
    new, changed = twin(source, ["a.rst::a.rst"], Random(3))
    assert changed == ["a.rst::a.rst"] and len(new) == len(source) + 1
