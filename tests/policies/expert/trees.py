"""Small real repositories as images in the local store, with bugs put into real modules.

What students do in them is run in an isolating sandbox only: it may well be ``rm -rf *``.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from swe_gym_env.sandbox import images
from swe_gym_env.types import TaskInstance

MODULES = ("textwrap", "shlex", "heapq", "bisect", "fnmatch", "colorsys", "copy", "csv", "cmd")


def make_task(
    name: str, files: Mapping[str, str], gold: Mapping[str, str], statement: str
) -> TaskInstance:
    """An image in the local store with ``files``, and the task whose patch leads to ``gold``."""
    folder = images.path_of(name)
    for path, text in {**files, "../env/bin/pytest": "#!/bin/sh\necho 3 passed\n"}.items():
        (folder / "tree" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "tree" / path).write_text(text)
    (folder / "env/bin/pytest").chmod(0o755)  # a stub: what tests say is not the point here

    (folder / "env/bin/python").symlink_to("/usr/bin/python3")

    def git(arguments: str) -> str:
        command = f"git -c user.name=a -c user.email=a@example.org {arguments}"
        done = subprocess.run(
            command, shell=True, cwd=folder / "tree", check=True, capture_output=True, text=True
        )
        return done.stdout

    git("init -q")
    git("add -A")
    git("commit -qm start")
    for path, text in gold.items():
        (folder / "tree" / path).write_text(text)
    patch = git("diff")
    git("checkout -q .")
    env = {"PATH": "/opt/env/bin:/usr/local/bin:/usr/bin:/bin"}
    images.save(name, images.Image(mounts={"/opt/env": str(folder / "env")}, env=env))
    return TaskInstance(
        instance_id=name,
        repo="sample",
        base_commit=git("rev-parse HEAD").strip(),
        image=name,
        problem_statement=statement,
        gold_patch=patch,
        test_patch="",
        fail_to_pass=("t",),
        pass_to_pass=(),
        eval_script="",
        metadata={"test_command": "pytest -q"},
    )


def source(module: str) -> str:
    spec = importlib.util.find_spec(module)
    assert spec and spec.origin
    return Path(spec.origin).read_text()


_SWAPS = {
    "<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "+": "-", "-": "+",
    "*": "/", "and": "or", "or": "and", "True": "False", "False": "True", "0": "1", "1": "2",
    "is": "is not", "not": "", "if": "if not", "break": "continue",
}  # fmt: skip


def mutate(text: str, rng: np.random.Generator, big: bool) -> str:
    """A bug: one token changed, or with ``big`` lines removed, repeated, moved or indented."""
    lines = text.split("\n")
    inside = [i for i, x in enumerate(lines) if x.startswith("    ") and len(x.strip()) > 3]
    for _ in range(200):
        at = int(rng.choice(inside))
        new = list(lines)
        if big:
            span = int(rng.integers(1, 4))
            part = new[at : at + span]
            how = rng.integers(4)
            if how == 0:
                del new[at : at + span]
            elif how == 1:
                new[at:at] = part
            elif how == 2:
                new[at : at + span] = [f"    {x}" if x.strip() else x for x in part]
            else:
                new[at : at + span] = part[::-1]
        else:
            parts = re.split(r"(\b\w+\b|[<>=!]=|[-+*<>])", new[at])
            places = [i for i, part in enumerate(parts) if part in _SWAPS]
            if not places:
                continue
            place = int(rng.choice(places))
            parts[place] = _SWAPS[parts[place]]
            new[at] = "".join(parts)
        if new != lines:
            return "\n".join(new)
    raise AssertionError("nothing to change")


def first_change(base: str, gold: str) -> int:
    """The line number of the first difference."""
    opcodes = difflib.SequenceMatcher(
        None, base.split("\n"), gold.split("\n"), autojunk=False
    ).get_opcodes()
    return next(op[1] for op in opcodes if op[0] != "equal") + 1


def function_at(text: str, line: int) -> tuple[str, int, int]:
    """The name and line range of the definition around a line."""
    lines = text.split("\n")
    for i in range(min(line, len(lines)) - 1, -1, -1):
        match = re.match(r"(\s*)(?:def|class) (\w+)", lines[i])
        if match and (i < line - 1 or match):
            indent = len(match[1])
            end = i + 1
            while end < len(lines) and (
                not lines[end].strip() or len(lines[end]) - len(lines[end].lstrip()) > indent
            ):
                end += 1
            return match[2], i + 1, max(end, line)
    return "", 1, len(lines)
