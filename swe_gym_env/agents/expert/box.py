"""The present state of a box, seen out of band: nothing here may leave a trace in it.

``GIT_OPTIONAL_LOCKS=0`` keeps git from refreshing the index, and sed runs without ``-i``.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from swe_gym_env.agents.expert.edits import Edit
from swe_gym_env.sandbox.base import Sandbox
from swe_gym_env.types import TaskInstance

TIMEOUT = 60.0
_GIT = (
    "export GIT_OPTIONAL_LOCKS=0; "
    "g() { git -c safe.directory='*' --no-pager \"$@\" 2>/dev/null; }; "
)
# What test runs leave behind is nobody's damage
_CACHES = re.compile(
    r"(^|/)(__pycache__|\.pytest_cache|\.hypothesis|\.mypy_cache|\.coverage|[^/]*\.egg-info)(/|$)"
    r"|\.py[co]$"
)


@dataclass(frozen=True)
class Probe:
    """How the working tree differs from the task's base commit.

    ``git`` is False where the repository's history is gone. ``changed`` maps a tracked path to
    "A", "D", "M" or "P" (its mode or type changed); ``lines`` counts added and removed lines.
    """

    git: bool
    head: str = ""
    changed: dict[str, str] | None = None
    lines: int = 0
    staged: frozenset[str] = frozenset()
    untracked: tuple[str, ...] = ()


def probe(box: Sandbox, task: TaskInstance) -> Probe:
    base = shlex.quote(task.base_commit)
    diff = "g diff --no-ext-diff --no-renames --ignore-submodules -z"
    result = box.exec(
        f"{_GIT} g rev-parse HEAD || exit 9; printf '\\001'; {diff} --raw {base} -- || exit 9; "
        f"printf '\\001'; {diff} --numstat {base} --; printf '\\001'; "
        f"{diff} --cached --name-only {base} --; printf '\\001'; "
        "g ls-files -oz --exclude-standard --directory --no-empty-directory",
        timeout=TIMEOUT,
    )
    parts = result.output.decode("utf-8", "surrogateescape").split("\x01")
    if result.exit_code == 9 or len(parts) != 5:
        return Probe(git=False)
    head, raw, counts, staged, untracked = parts
    fields = raw.split("\0")
    changed: dict[str, str] = {}
    for info, path in zip(fields[::2], fields[1::2], strict=False):
        before, after, _, _, status = info.lstrip(":").split()
        changed[path] = "P" if status in "MT" and before != after else status
    numbers = (row.split("\t")[:2] for row in counts.split("\0") if row)
    lines = sum(int(n) for pair in numbers for n in pair if n.isdigit())
    return Probe(
        git=True,
        head=head.strip(),
        changed={p: s for p, s in changed.items() if not _CACHES.search(p)},
        lines=lines,
        staged=frozenset(p for p in staged.split("\0") if p),
        untracked=tuple(p for p in untracked.split("\0") if p and not _CACHES.search(p)),
    )


def read(box: Sandbox, task: TaskInstance, path: str) -> str | None:
    """A file of the working tree; None if it is not there."""
    try:
        return box.read(f"{task.workdir}/{path}").decode("utf-8", "surrogateescape")
    except OSError:
        return None


def read_base(box: Sandbox, task: TaskInstance, path: str) -> str | None:
    """A file as the base commit has it; None if it cannot be had."""
    name = shlex.quote(f"{task.base_commit}:{path}")
    result = box.exec(f"{_GIT} g cat-file blob {name}", timeout=TIMEOUT)
    if result.exit_code or result.dropped:
        return None
    return result.output.decode("utf-8", "surrogateescape")


def gives(box: Sandbox, edit: Edit, path: str, wanted: str) -> bool:
    """Does the box's own sed turn the file into ``wanted``?"""
    result = box.exec(f"sed {shlex.quote(edit.script)} {shlex.quote(path)}", timeout=TIMEOUT)
    return (
        not result.exit_code
        and not result.dropped
        and result.output == wanted.encode("utf-8", "surrogateescape")
    )


def hits(box: Sandbox, command: str) -> list[str]:
    """The lines that a search would print."""
    output = box.exec(command, timeout=TIMEOUT).output
    return output.decode("utf-8", "replace").splitlines()
