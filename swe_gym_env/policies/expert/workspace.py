"""The present state of a sandbox, seen out of band: nothing here may leave a trace in it.

``GIT_OPTIONAL_LOCKS=0`` keeps git status from refreshing the index; git diff needs another
setting for that, and then lists files of which only the time changed. Sed runs without ``-i``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from swe_gym_env.policies.expert.edits import Edit
from swe_gym_env.sandbox.base import Sandbox
from swe_gym_env.types import TaskInstance

TIMEOUT = 60.0
_GIT = (
    "export GIT_OPTIONAL_LOCKS=0; "
    "g() { git -c safe.directory='*' -c diff.autoRefreshIndex=false --no-pager \"$@\" "
    "2>/dev/null; }; "
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
    changed: Mapping[str, str] = field(default_factory=dict)
    lines: int = 0
    staged: frozenset[str] = frozenset()
    untracked: tuple[str, ...] = ()


def probe(sandbox: Sandbox, task: TaskInstance) -> Probe:
    """One git process where no tracked file differs, as at the start of every episode."""
    status = "g status --porcelain=v2 --branch --no-renames --untracked-files=normal -z"
    result = sandbox.exec(f"{_GIT} {status}", timeout=TIMEOUT)
    rows = result.output.decode("utf-8", "surrogateescape").split("\0")
    if result.exit_code:
        return Probe(git=False)
    untracked = tuple(r[2:] for r in rows if r.startswith("? ") and not _CACHES.search(r[2:]))
    head = rows[0].removeprefix("# branch.oid ")
    if head == task.base_commit and not any(r[:2] in {"1 ", "2 ", "u "} for r in rows):
        return Probe(git=True, head=head, untracked=untracked)
    return _against_base(sandbox, task, head, untracked)


def _against_base(
    sandbox: Sandbox, task: TaskInstance, head: str, untracked: tuple[str, ...]
) -> Probe:
    base = shlex.quote(task.base_commit)
    diff = "g diff --no-ext-diff --no-renames --ignore-submodules -z"
    result = sandbox.exec(
        f"{_GIT} {diff} --raw {base} -- || exit 9; printf '\\001'; {diff} --numstat {base} --; "
        f"printf '\\001'; {diff} --cached --name-only {base} --",
        timeout=TIMEOUT,
    )
    parts = result.output.decode("utf-8", "surrogateescape").split("\x01")
    if result.exit_code == 9 or len(parts) != 3:
        return Probe(git=False)
    raw, counts, staged = parts
    rows = [row.split("\t") for row in counts.split("\0") if row]
    differ = {row[-1] for row in rows}
    fields = raw.split("\0")
    changed: dict[str, str] = {}
    for info, path in zip(fields[::2], fields[1::2], strict=False):
        before, after, _, _, letter = info.lstrip(":").split()
        mode = letter in "MT" and before != after
        if not _CACHES.search(path) and (mode or letter != "M" or path in differ):
            changed[path] = "P" if mode else letter
    return Probe(
        git=True,
        head=head,
        changed=changed,
        lines=sum(int(n) for row in rows for n in row[:2] if n.isdigit()),
        staged=frozenset(p for p in staged.split("\0") if p),
        untracked=untracked,
    )


def read(sandbox: Sandbox, task: TaskInstance, path: str) -> str | None:
    """A file of the working tree; None if it is not there."""
    try:
        return sandbox.read(f"{task.workdir}/{path}").decode("utf-8", "surrogateescape")
    except OSError:
        return None


def read_base(sandbox: Sandbox, task: TaskInstance, path: str) -> str | None:
    """A file as the base commit has it; None if it cannot be had."""
    name = shlex.quote(f"{task.base_commit}:{path}")
    result = sandbox.exec(f"{_GIT} g cat-file blob {name}", timeout=TIMEOUT)
    if result.exit_code or result.dropped:
        return None
    return result.output.decode("utf-8", "surrogateescape")


def gives(sandbox: Sandbox, edit: Edit, path: str, wanted: str) -> bool:
    """Does the sandbox's own sed turn the file into ``wanted``?"""
    result = sandbox.exec(f"sed {shlex.quote(edit.script)} {shlex.quote(path)}", timeout=TIMEOUT)
    return (
        not result.exit_code
        and not result.dropped
        and result.output == wanted.encode("utf-8", "surrogateescape")
    )


def hits(sandbox: Sandbox, command: str) -> list[str]:
    """The lines that a search would print."""
    output = sandbox.exec(command, timeout=TIMEOUT).output
    return output.decode("utf-8", "replace").splitlines()
