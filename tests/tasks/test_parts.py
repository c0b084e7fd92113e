"""The small parts of the pypi source: hiding tests, statements, patches, splits, rows."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from swe_gym_env import tasks
from swe_gym_env.errors import SetupError
from swe_gym_env.tasks.jsonl import save
from swe_gym_env.tasks.pypi import instance, statement
from swe_gym_env.tasks.pypi.hide import CannotHideError, hide
from swe_gym_env.tasks.pypi.splits import near_duplicates
from swe_gym_env.tasks.rows import from_row, to_row

TESTS = b"""import pytest

@pytest.mark.parametrize("x", [1])
@other
def test_a(x):
    assert x

def test_b():
    assert 1

class TestC:
    def test_d(self):
        pass
"""


def test_hiding_takes_decorators_along_and_leaves_the_rest() -> None:
    left = hide(TESTS, {3})
    assert b"test_a" not in left and b"parametrize" not in left
    assert b"def test_b():\n    assert 1\n" in left and b"test_d" in left


def test_an_emptied_class_gets_a_pass() -> None:
    assert hide(TESTS, {12}).endswith(b"class TestC:\n    pass\n")


def test_what_is_no_function_cannot_be_hidden() -> None:
    with pytest.raises(CannotHideError, match="line 5"):
        hide(TESTS, {5})


def failure(**change: object) -> dict[str, object]:
    base = {
        "test": "t.py::test_up[1]",
        "statement": "    assert up(word) == want",
        "error": "AssertionError: assert 'a' == 'A'\n  \n  - A\n  + a\n  +  where 'a' = up('a')",
        "params": {"word": "'a'", "want": "'A'", "unused": "0"},
    }
    return {**base, **change}


def test_a_statement_reads_like_a_report() -> None:
    assert statement.symptom("pkg", failure(), ["/home/x"]) == (
        "`pkg` misbehaves:\n"
        "    assert up(word) == want\n"
        "with word = 'a', want = 'A'\n"
        "gives\n"
        "    assert 'a' == 'A'\n"
        "    +  where 'a' = up('a')"
    )


def test_statements_are_short_and_name_no_place_on_the_builder() -> None:
    long = failure(error="ValueError: /home/x/tree/pkg/a.py " + "y" * 500 + " at 0x7f00\n" * 9)
    text = statement.symptom("pkg", long, ["/home/x/tree"])
    assert "/home" not in text and "0x7f" not in text
    assert len(text.splitlines()) <= 8
    assert max(map(len, text.splitlines())) <= statement.MAX_WIDTH + 5


def test_addresses_are_left_out_whole_or_cut() -> None:
    text = statement.symptom("pkg", failure(error="<f at 0x7f1ae1> == <filter o...x7f4c2be7a5c0>"))
    assert text.endswith("gives\n    <f> == <filter o...>")
    text = statement.symptom("pkg", failure(params={"word": "<function f at 0x7ff784f64180>"}))
    assert "with word = <function f>\n" in text


def test_clearest_failure_is_reported() -> None:
    opaque = failure(error="assert False", test="a")
    assert statement.best_failure([opaque, failure()]) == failure()
    assert statement.best_failure([]) is None


@pytest.mark.parametrize("bug", [10, 40, 80])
@pytest.mark.parametrize("window", [1, 3, statement.WINDOW])
def test_a_long_function_is_pointed_at_by_a_window(bug: int, window: int) -> None:
    places = set()
    for candidate in range(40):
        metadata = {
            "candidate": str(candidate),
            "function": "f",
            "file": "a.py",
            "line_start": 10,
            "line_end": 80,
            "lines": [bug, bug],
        }
        text = statement.located("x", metadata, window)
        assert text.startswith("x\nThe fault is in `f` (a.py, line")
        numbers = [int(n) for n in re.findall(r"\d+", text)]
        first, last = numbers[0], numbers[-1]
        assert 10 <= first <= bug <= last <= 80 and last - first + 1 == window
        places.add(bug - first)
    assert len(places) == 1 if bug in (10, 80) else len(places) > min(window, 12) - 1
    whole = statement.located("x", {**metadata, "line_end": bug, "line_start": bug - 2}, 30)
    assert f"lines {bug - 2}-{bug})" in whole


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"a\nb\nc\n", b"a\nx\nc\n"),
        (b"a\nb", b"a\nc"),
        (b"a\n", b"a"),
        (b"a\r\nb\r\n", b"a\r\nc\r\n"),
        ("é\x0c\n1\n".encode(), "é\x0c\n2\n".encode()),
        (b"\xff\n1\n", b"\xff\n2\n"),
    ],
)
def test_patches_are_what_git_applies(tmp_path: Path, old: bytes, new: bytes) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "f.txt").write_bytes(old)
    text = instance.patch("f.txt", old, new).encode("utf-8", "surrogateescape")
    subprocess.run(["git", "apply", "-"], cwd=tmp_path, input=text, check=True)
    assert (tmp_path / "f.txt").read_bytes() == new


def test_near_duplicates_leave_the_evaluation() -> None:
    body = "out = []\nfor item in items:\n    out.append(f(item))\nreturn out"
    near = body.replace("return out", "return  out")
    other = "while left:\n    left -= step(left)\nyield left"
    pairs = [("train", body), ("heldout", near), ("heldout", other), ("unseen", body)]
    assert near_duplicates(pairs) == {("heldout", near), ("unseen", body)}


def test_same_split_keeps_its_likes() -> None:
    assert near_duplicates([("train", "return a + b + c"), ("train", "return a + b + d")]) == set()


ROW = {
    "instance_id": "x-1",
    "repo": "a/b",
    "base_commit": "0" * 40,
    "image": "i",
    "problem_statement": "p",
    "patch": "diff --git a/g b/g\n",
    "test_patch": "diff --git a/t b/t\n",
    "FAIL_TO_PASS": '["a::b"]',
    "PASS_TO_PASS": ["c::d"],
    "eval_script": "true",
    "split": "train",
}


def test_rows_go_there_and_back(tmp_path: Path) -> None:
    task = from_row(ROW)
    assert task.fail_to_pass == ("a::b",) and task.pass_to_pass == ("c::d",)
    assert from_row(to_row(task)) == task
    save([task], tmp_path / "rows.jsonl")
    (loaded,) = tasks.load("jsonl", path=str(tmp_path / "rows.jsonl"))
    assert loaded == from_row(to_row(task), "jsonl")
    with pytest.raises(SetupError, match=r"split 'val': there are train \(1\)"):
        tasks.load("jsonl", path=str(tmp_path / "rows.jsonl"), split="val")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("pipy", {}, "there are: jsonl, pypi"),
        ("jsonl", {"path": "./no/where"}, "no task file"),
        ("jsonl", {"pth": "x"}, "no option pth: there are path, split, limit"),
        ("pypi", {"split": "test"}, "there are train, val, heldout, unseen"),
        ("pypi", {"help": "much"}, "located and symptom"),
    ],
)
def test_what_does_not_exist_is_answered_by_what_does(
    name: str, options: dict[str, str], words: str
) -> None:
    with pytest.raises(SetupError, match=words):
        tasks.load(name, **options)


def test_a_row_without_a_column_says_which() -> None:
    with pytest.raises(SetupError, match=r"x-1 has no column 'image'"):
        from_row({key: value for key, value in ROW.items() if key != "image"})


def test_files_of_an_archive_belong_to_the_user_that_unpacks_it(tmp_path: Path) -> None:
    """Else a sandbox cannot change them: older tarfile keeps the packer's ids where root
    unpacks."""
    import io
    import os
    import tarfile

    from swe_gym_env.tasks.pypi.fetch import unpack

    with tarfile.open(tmp_path / "x-1.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("x-1/x.py")
        member.uid, member.gid, member.size = 501, 20, 2
        tar.addfile(member, io.BytesIO(b"x\n"))
    unpack(tmp_path / "x-1.tar.gz", tmp_path / "tree")
    assert (tmp_path / "tree" / "x.py").stat().st_uid == os.getuid()
