"""The gold patch, submitted the way an agent submits its own.

A task is not valid because its gold patch passes the tests: an agent begins in another sandbox,
which may not start, and what it changed there is known only by a diff, which may miss it. So the
gold patch is applied in the agent's sandbox, and what the diff makes of it is what is graded.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from swe_gym_env.errors import SandboxError
from swe_gym_env.grading import patches
from swe_gym_env.grading.extract import Extracted, extract, moment
from swe_gym_env.sandbox.base import Sandbox, SandboxProvider
from swe_gym_env.sandbox.history import CHECK
from swe_gym_env.sandbox.start import base_commit, start
from swe_gym_env.types import TaskInstance

SECONDS = 300.0
PATCH = ".git/swe_gym_gold.patch"  # under .git, where a diff does not see it
# Builders pin a version or leave a file, so the tree may differ from the base commit: files that
# the patch touches are then set to the base, as an agent may do, and as the grader does
APPLY = f"""
git apply --whitespace=nowarn {PATCH} 2>/dev/null || {{{{
  for name in {{names}}; do
    git --literal-pathspecs checkout -q {{base}} -- "$name" 2>/dev/null || rm -rf -- "$name"
  done
  git apply --whitespace=nowarn {PATCH}
}}}}
"""
# A patch that is in the tree already applies in reverse, and forwards no more
DONE = f"""
git apply --check --whitespace=nowarn {PATCH} 2>/dev/null; forwards=$?
git apply --check --reverse --whitespace=nowarn {PATCH} 2>/dev/null; backwards=$?
rm -f {PATCH}
[ $forwards != 0 ] && [ $backwards = 0 ]
"""


@dataclass(frozen=True)
class Walk:
    """``gold`` and ``nothing``: the diffs of an agent that made the gold change, and of one that
    did nothing. ``refused``: why the gold change cannot be made or submitted there. ``leak``: what
    the agent can see there that it must not. ``missing``: paths of the gold patch that the diff
    leaves out. Each empty where there is none."""

    gold: str
    nothing: str
    refused: str = ""
    leak: str = ""
    missing: tuple[str, ...] = ()


def walk(task: TaskInstance, sandboxes: SandboxProvider) -> Walk:
    """Raises SandboxError where the sandbox failed, SetupError where the row does not fit it."""
    sandbox = start(sandboxes, task)
    began, found = moment(), Extracted()
    try:
        base = base_commit(sandbox, task)
        leak = _leak(sandbox, task)
        nothing = extract(sandbox, task, sandboxes, base, began).patch
        refused = _apply(sandbox, task) if task.gold_patch.strip() else "the row has no gold patch"
        if not refused:
            found = extract(sandbox, task, sandboxes, base, began)
    except OSError as error:
        raise SandboxError(f"the sandbox refused a file: {error}") from error
    finally:
        sandbox.close()
    left_out = () if refused else patches.named(task.gold_patch) - patches.named(found.patch)
    refused = refused or found.refused
    return Walk(found.patch, nothing, refused, leak, tuple(sorted(left_out)))


def _apply(sandbox: Sandbox, task: TaskInstance) -> str:
    _write(sandbox, task, task.gold_patch)
    names = " ".join(shlex.quote(name) for name in sorted(patches.named(task.gold_patch)))
    script = APPLY.format(names=names, base=shlex.quote(task.base_commit))
    done = sandbox.exec(
        f"{script}\nsaid=$?; rm -f {PATCH}; exit $said", timeout=SECONDS, cwd=task.workdir
    )
    if done.exit_code == 0:
        return ""
    return done.output.decode("utf-8", "replace").strip()[-300:] or f"exit {done.exit_code}"


def _leak(sandbox: Sandbox, task: TaskInstance) -> str:
    """Both patches must still be to come, and nothing in the history may follow the base commit."""
    for patch, what in ((task.gold_patch, "the fix is"), (task.test_patch, "the hidden tests are")):
        if patch.strip():
            _write(sandbox, task, patch)
            done = sandbox.exec(DONE, timeout=SECONDS, cwd=task.workdir)
            if done.exit_code == 0:
                return f"{what} in the tree already"
    return _later(sandbox, task)


def _later(sandbox: Sandbox, task: TaskInstance) -> str:
    check = CHECK.format(base=base_commit(sandbox, task))
    seen = sandbox.exec(check, timeout=SECONDS, cwd=task.workdir)
    left = seen.output.decode("utf-8", "replace").strip()
    return f"the history holds more than the base commit's past: {left}" if seen.exit_code else ""


def _write(sandbox: Sandbox, task: TaskInstance, patch: str) -> None:
    sandbox.write(f"{task.workdir}/{PATCH}", patch.encode("utf-8", "surrogateescape"))
