"""Submit the gold patch in the way in which an agent submits its change.

That the gold patch passes the tests does not make a task valid. An agent begins in another sandbox,
which may fail to start, and its change is known only through a diff, which may miss a part. So the
gold patch is applied in the agent's sandbox, and the diff that is taken there is graded.
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
PATCH = ".git/swe_gym_gold.patch"  # below .git, so that a diff does not show it
# The makers of an image may have changed files, so the tree may differ from the base commit. Then
# files that the patch touches are first set to the base commit, as an agent may do and the grader
# does.
APPLY = f"""
git apply --whitespace=nowarn {PATCH} 2>/dev/null || {{{{
  for name in {{names}}; do
    git --literal-pathspecs checkout -q {{base}} -- "$name" 2>/dev/null || rm -rf -- "$name"
  done
  git apply --whitespace=nowarn {PATCH}
}}}}
"""
# A patch that is in the tree already can be applied in reverse, but not forward
DONE = f"""
git apply --check --whitespace=nowarn {PATCH} 2>/dev/null; forwards=$?
git apply --check --reverse --whitespace=nowarn {PATCH} 2>/dev/null; backwards=$?
rm -f {PATCH}
[ $forwards != 0 ] && [ $backwards = 0 ]
"""


@dataclass(frozen=True)
class Walk:
    """What was found in the agent's sandbox; a field is empty if there is nothing to report.

    Attributes:
        gold: The diff of an agent that made the gold change.
        nothing: The diff of an agent that did nothing.
        refused: Why the gold change cannot be made or submitted there.
        leak: What the agent can see but must not.
        missing: Paths of the gold patch that the diff leaves out.
    """

    gold: str
    nothing: str
    refused: str = ""
    leak: str = ""
    missing: tuple[str, ...] = ()


def walk(task: TaskInstance, sandboxes: SandboxProvider) -> Walk:
    """Apply the gold patch in the agent's sandbox of ``task`` and extract the change.

    Raises:
        SandboxError: The sandbox failed.
        SetupError: The row does not fit its image.
    """
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
    """What must not be visible but is: a patch in the tree, or history after the base commit."""
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
