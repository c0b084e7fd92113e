"""Does Python still read what a patch left behind?

A patch shows a few lines, and a file must be read whole: its text before the patch is taken from
the task's unpacked image, where this machine has it. ``git apply`` makes the file after it. Where
either is missing, nothing is claimed.
"""

from __future__ import annotations

import ast
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from swe_gym_env.errors import SetupError
from swe_gym_env.sandbox import images
from swe_gym_env.types import TaskInstance

Source = Callable[[str], str | None]  # a path in the repository -> the text at the base commit


def source_of(task: TaskInstance) -> Source:
    """Reads from the local image store; None for a file or an image that is not there."""

    def read(path: str) -> str | None:
        try:
            tree = images.load(task.image).tree_path.resolve()
            file = (tree / path).resolve()
            return file.read_text("utf-8") if file.is_relative_to(tree) else None
        except (SetupError, OSError, ValueError):
            return None

    return read


@lru_cache(maxsize=10_000)  # runs share iteration 0, and students often make the same patch
def broken(patch: str, before: tuple[tuple[str, str], ...]) -> bool | None:
    """Whether one of the files ``before`` (path and text, Python) no longer parses after ``patch``;
    None where the patch does not fit them, or one did not parse to begin with (it may be
    for another Python than this one)."""
    if not before or not all(parses(text) for _, text in before):
        return None
    with tempfile.TemporaryDirectory() as folder:
        for path, text in before:
            file = Path(folder, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, "utf-8")
        only = [f"--include={path}" for path, _ in before]
        done = subprocess.run(
            ["git", "apply", "--whitespace=nowarn", *only, "-"],
            cwd=folder,
            input=patch.encode("utf-8", "surrogateescape"),
            capture_output=True,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "GIT_CEILING_DIRECTORIES": folder},
        )
        if done.returncode:
            return None
        left = [Path(folder, path) for path, _ in before]
        texts = [file.read_bytes() for file in left if file.exists()]
    return not all(parses(text) for text in texts)


def parses(text: str | bytes) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return True
