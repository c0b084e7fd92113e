"""Every command that the expert would write, run by the real bash and sed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from swe_gym_env.patches import (
    Block,
    apply_blocks,
    missing_blocks,
    parse_patch,
    split_lines,
)
from swe_gym_env.policies.expert.edits import edit_by_content, edit_lines, fragment, substitution
from tests.policies.expert.trees import MODULES, mutate, source


def run(command: str, cwd: Path) -> None:
    done = subprocess.run(["bash", "-c", command], cwd=cwd, capture_output=True)
    assert done.returncode == 0, (command, done.stderr)


def diff(tmp_path: Path, old: str, new: str) -> str:
    """git's own patch from one text of the file ``a.py`` to another."""
    (tmp_path / "old").mkdir(exist_ok=True)
    (tmp_path / "new").mkdir(exist_ok=True)
    (tmp_path / "old/a.py").write_bytes(old.encode("utf-8", "surrogateescape"))
    (tmp_path / "new/a.py").write_bytes(new.encode("utf-8", "surrogateescape"))
    command = ["git", "diff", "--no-index", "--no-prefix", "old/a.py", "new/a.py"]
    out = subprocess.run(command, cwd=tmp_path, capture_output=True).stdout
    text = out.decode("utf-8", "surrogateescape")
    return text.replace("--- old/", "--- a/").replace("+++ new/", "+++ b/")


@pytest.mark.parametrize(
    ("old", "new", "script"),
    [
        ("    if a < b:", "    if a <= b:", "s/</<=/"),
        ("    return x", "    return not x", "s/x/not x/"),
        ("    return a.b", "    return a.c", "s/b/c/"),
        ("max(x) + x", "max(x) + y", "s/+ x/+ y/"),
        ("x = f(a, b)", "x = f(b, a)", "s/a, b/b, a/"),
        ("x = a / b", "x = a // b", "s|/|//|"),
        ("x = a[0]", "x = a[1]", "s/0/1/"),
        ("x = [0] + [0]", "x = [0] + [1]", "s/+ \\[0/+ [1/"),
        ("not a and not b", "not a and b", "s/not b/b/"),
    ],
)
def test_the_shortest_substitution(old: str, new: str, script: str) -> None:
    change = fragment(old, new)
    assert old.replace(change.old, change.new, 1) == new
    assert substitution(change) == script


NASTY = [
    ("a.b*[c]^$x\\n", "a.b*[c]^$y\\n"),
    ("s = 'it''s' & \"q\"", "s = 'it''s' && \"q\""),
    ("path = 'a/b|c'", "path = 'a/b|d/e'"),
    ("x = `y` $HOME !z", "x = `y` $HOME !z \\1 &"),
    ("\tif a:", "\t\tif a:"),
    ("    x", "x"),
    ("x", ""),
    ("", "    x = '\\\\'"),
    ("naïve = 'ü'", "naïve = 'ö'"),
]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("old", "new"), NASTY)
def test_odd_lines(tmp_path: Path, old: str, new: str) -> None:
    present = ["first\n", f"{old}\n", "last\n"]
    blocks = [Block(1, (f"{old}\n",), (f"{new}\n",))]
    for edit in edit_lines("f.py", present, blocks):
        (tmp_path / "f.py").write_text("".join(present))
        run(edit.command, tmp_path)
        assert (tmp_path / "f.py").read_text() == f"first\n{new}\nlast\n", edit.command


@pytest.mark.slow
def test_random_changes_of_real_files_come_out_exactly(tmp_path: Path) -> None:
    """Each form that is offered gives the gold file, byte for byte; nearly always sed will do."""
    rng = np.random.default_rng(7)
    pairs = []
    for n in range(300):
        gold = source(MODULES[n % len(MODULES)])
        base = mutate(gold, rng, bool(n % 2))
        pairs.append((mutate(base, rng, not n % 2) if n % 5 == 0 else base, gold))
    for side in (0, 1):
        (tmp_path / "ab"[side]).mkdir()
        for n, pair in enumerate(pairs):
            (tmp_path / "ab"[side] / f"{n}.py").write_text(pair[side])
    git = ["git", "diff", "--no-index", "--no-prefix", "a", "b"]
    patches = parse_patch(subprocess.run(git, cwd=tmp_path, capture_output=True, text=True).stdout)

    commands, short, by_content, shown = [], 0, 0, 0
    for n, (base, gold) in enumerate(pairs):
        blocks, present = patches[f"{n}.py"].blocks, split_lines(base)
        assert "".join(apply_blocks(present, blocks)) == gold
        assert missing_blocks(present, blocks, split_lines(gold)) == []
        assert missing_blocks(present, blocks, present) == list(blocks)
        edits = edit_lines("x.py", present, blocks)
        short += bool(edits[0].script)
        edits = edits if n % 10 == 0 else edits[:1]
        if len(blocks) == 1:
            line = blocks[0].start + 1
            span = max(1, line - int(rng.integers(9))), min(len(present), line + 8)
            found = [edit_by_content("x.py", present, blocks[0], s) for s in (None, span)]
            edits += [edit for edit in found if edit]
            by_content += found[1] is not None
            (tmp_path / f"new{n}").write_text("".join(blocks[0].new))
        for edit in edits:
            commands.append(f"cp a/{n}.py x.py\n{{ {edit.command}\n}} > out\ncmp x.py b/{n}.py")
            if "w /dev/stdout" in edit.command:  # the changed line is seen
                commands.append(f"cmp out new{n}")
                shown += 1
    (tmp_path / "all.sh").write_text("\n".join(commands))
    done = subprocess.run(["bash", "all.sh"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout + done.stderr == ""
    assert short > 0.95 * len(pairs) and by_content > 0.3 * len(pairs)
    assert shown > by_content


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a\nb\n", "a\nb"),
        ("a\nb", "a\nc\n"),
        ("a\r\nb\r\n", "a\r\nc\r\n"),
        ("a\x0cb\nc\n", "a\x0cb\nd\n"),
        ("x\udcff\ny\n", "z\udcff\ny\n"),
        ("a\n", "new\na\n"),
        ("a\nb\n", ""),
        ("a\nb\nc\n", "a\n\n\n    x\nb\nc\n"),
    ],
)
def test_odd_files(tmp_path: Path, old: str, new: str) -> None:
    text = diff(tmp_path, old, new)
    patch = parse_patch(f"diff --git a/a.py b/a.py\n{text}")["a.py"]
    present = split_lines(old)
    assert "".join(apply_blocks(present, patch.blocks)) == new
    edit = edit_lines("a.py", present, patch.blocks)[-1]
    (tmp_path / "a.py").write_bytes(old.encode("utf-8", "surrogateescape"))
    run(edit.command, tmp_path)
    assert (tmp_path / "a.py").read_bytes() == new.encode("utf-8", "surrogateescape")


def test_half_done_change_differs_from_a_wrong_one() -> None:
    base = ["a\n", "b\n", "c\n", "d\n"]
    blocks = [Block(1, ("b\n",), ("B\n", "B2\n")), Block(3, ("d\n",), ())]
    assert missing_blocks(base, blocks, ["a\n", "B\n", "B2\n", "c\n", "d\n"]) == [
        Block(4, ("d\n",), ())
    ]
    assert missing_blocks(base, blocks, ["a\n", "b\n", "c\n"]) == [blocks[0]]
    assert missing_blocks(base, blocks, ["a\n", "B\n", "c\n", "d\n"]) is None
    one = [Block(1, ("b\n",), ("B\n",))]
    wrong = ["a\n", "x\n", "c\n", "d\n"]
    assert missing_blocks(base, one, wrong) == [Block(1, ("x\n",), ("B\n",))]
    assert missing_blocks(base, one, ["x\n", *base[1:]]) is None
    assert missing_blocks(base, blocks, ["a\n", "b\n", "c\n", "d\n", "e\n"]) is None


def test_created_and_deleted_files_are_known() -> None:
    patch = (
        "diff --git a/n.py b/n.py\nnew file mode 100644\n--- /dev/null\n+++ b/n.py\n"
        "@@ -0,0 +1,2 @@\n+a\n+b\n"
        "diff --git a/o.py b/o.py\ndeleted file mode 100644\n--- a/o.py\n+++ /dev/null\n"
        "@@ -1 +0,0 @@\n-a\n"
    )
    files = parse_patch(patch)
    assert files["n.py"].creates and files["n.py"].blocks == (Block(0, (), ("a\n", "b\n")),)
    assert files["o.py"].deletes
