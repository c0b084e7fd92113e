"""Small real repositories with a real bash in them, for the expert to be put to the test on.

A box here is a folder in the tests' temporary directory: no isolation and no image store, so that
500 episodes need neither root nor downloads. The conformance of boxes is tested elsewhere.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from swe_gym_env.errors import SandboxError
from swe_gym_env.sandbox.base import LIMITS, ExecResult, Guarantee
from swe_gym_env.types import TaskInstance

MODULES = ("textwrap", "shlex", "heapq", "bisect", "fnmatch", "colorsys", "copy", "csv", "cmd")
_ENV = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "LC_ALL": "C.UTF-8",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@b",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@b",
}


class TreeBox:
    """A Sandbox over one folder."""

    guarantees: Mapping[str, Guarantee] = dict.fromkeys(LIMITS, "none")

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        tools = tree.parent / "bin"
        tools.mkdir(exist_ok=True)
        (tools / "pytest").write_text("#!/bin/sh\necho 3 passed\n")
        (tools / "pytest").chmod(0o755)
        self.env = {**_ENV, "PATH": f"{tools}:{_ENV['PATH']}"}

    def exec(
        self,
        command: str,
        *,
        timeout: float,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
    ) -> ExecResult:
        if not self.tree.is_dir():
            raise SandboxError("the tree is gone")
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=cwd or self.tree,
            env={**self.env, **(env or {})},
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
        )
        code = done.returncode
        return ExecResult(code if code >= 0 else 128 - code, done.stdout, 0.0)

    def read(self, path: str) -> bytes:
        return Path(path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        Path(path).write_bytes(data)

    def close(self) -> None:
        pass


def make_task(
    folder: Path, files: Mapping[str, str], gold: Mapping[str, str], statement: str
) -> TaskInstance:
    """A repository of ``files`` in ``folder``, whose gold patch leads to ``gold``."""
    tree = folder / "testbed"
    for path, text in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(text.encode("utf-8", "surrogateescape"))
    box = TreeBox(tree)
    made = box.exec("git init -q . && git add -A && git commit -qm start", timeout=60)
    assert made.exit_code == 0, made.output
    commit = box.exec("git rev-parse HEAD", timeout=60).output.decode().strip()
    for path, text in gold.items():
        (tree / path).write_bytes(text.encode("utf-8", "surrogateescape"))
    patch = box.exec("git diff", timeout=60).output.decode("utf-8", "surrogateescape")
    assert box.exec("git checkout -q .", timeout=60).exit_code == 0
    return TaskInstance(
        instance_id=folder.name,
        repo="sample",
        base_commit=commit,
        image=str(folder),
        problem_statement=statement,
        gold_patch=patch,
        test_patch="",
        fail_to_pass=("t",),
        pass_to_pass=(),
        eval_script="",
        workdir=str(tree),
        metadata={"test_command": "pytest -q"},  # the stub below: what tests say is not the point
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
