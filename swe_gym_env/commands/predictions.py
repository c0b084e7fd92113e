"""Read predictions in the official format of SWE-bench.

Each has instance_id, model_name_or_path and model_patch. Programs that store a patch as text often
damage it in typical ways; :func:`repaired` undoes these.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from swe_gym_env.errors import SetupError
from swe_gym_env.tasks import files

_HUNK = re.compile(r"^@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@", re.MULTILINE)


def read(path: Path) -> dict[str, str]:
    """Patch by instance id, from a list or a mapping as .json, or .jsonl. Raises SetupError."""
    if path.is_dir():
        inside = next(iter(sorted(path.glob("*preds*.json*"))), "the file of predictions in it")
        raise SetupError(f"{str(path)!r} is a folder: give {str(inside)!r}")
    if not path.is_file():
        raise SetupError(f"no predictions at {str(path)!r}")
    patches: dict[str, str] = {}
    for row in _rows(path):
        name = row.text("instance_id")
        patch = row.column("model_patch")
        if not isinstance(patch, str | None):
            raise SetupError(f"{row.where}, column 'model_patch': not a text: {patch!r:.80}")
        if name in patches:
            raise SetupError(f"{row.where}: a second prediction for {name}; one model a file")
        patches[name] = repaired(patch or "")
    if not patches:
        raise SetupError(f"{path} holds no predictions")
    return patches


def _rows(path: Path) -> Iterable[files.Row]:
    if path.suffix != ".json":
        return files.read_file(path)
    try:
        found = files.read_json(path)
    except SetupError:  # many .json files have one object per line; read_file reports other errors
        found = None
    if not isinstance(found, Mapping):
        return files.read_file(path)
    if {"instance_id", "model_patch"} <= found.keys():  # one prediction, not a mapping of them
        return files.placed([found], f"{path}, prediction")
    return files.placed(_from_mapping(found), f"{path}, prediction")


def _from_mapping(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """{instance_id: prediction}, where the prediction may be the patch alone."""
    return [
        {"instance_id": name, **(value if isinstance(value, Mapping) else {"model_patch": value})}
        for name, value in found.items()
    ]


def repaired(patch: str) -> str:
    """``patch`` with typical damage from storing it as text undone.

    That is: a missing last newline, missing blank lines at the end that the last hunk counts, and
    CR LF instead of LF. The changes that the diff describes stay the same.
    """
    header = re.search(r"^diff --git .*\r$|^--- .*\r$|^@@ .*@@.*\r$", patch, re.MULTILINE)
    # A header of git never ends in CR, so here the whole text was converted
    if header and len(re.findall(r"(?<!\r)\n", patch)) == 0:
        patch = patch.replace("\r\n", "\n").removesuffix("\r")
    if not re.search(r"^(?:diff --git |@@ )", patch, re.MULTILINE):
        return patch
    patch += "" if patch.endswith("\n") else "\n"
    return patch + " \n" * _missing(patch)


def _missing(patch: str) -> int:
    """Number of blank context lines that the last hunk lacks on both sides; 0 if it is complete."""
    last = max(_HUNK.finditer(patch), key=re.Match.start, default=None)
    if last is None or "\n" not in patch[last.end() :]:
        return 0
    lines = patch[last.end() :].split("\n")[1:-1]
    if any(line[:1] not in (" ", "+", "-", "\\", "") for line in lines):
        return 0
    old = int(last[1] or 1) - sum(line[:1] in (" ", "-", "") for line in lines)
    new = int(last[2] or 1) - sum(line[:1] in (" ", "+", "") for line in lines)
    return old if old == new and 0 < old <= 3 else 0
