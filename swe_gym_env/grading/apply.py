"""Apply an agent's patch in the grading sandbox, and undo its edits of tests and configuration.

git applies the patch and reports which paths it touched. The paths are then checked by their names
*after* git has written them, because only git knows the true names in a diff (quoting, renames,
symbolic links). Nothing of the patch is executed before the checks are done. For each path:

- an edit of a hidden test or of pytest's configuration is set back to the base commit, since agents
  make such edits in good faith;
- a link out of the repository, a module that would replace part of the test framework or run at
every
  start of Python, or a new pytest plugin makes the patch ``tampered``, or is left out if it cannot
  have an effect on the tests;
- everything else stays, and so does each path that the gold patch touches as well.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from swe_gym_env.errors import GradingError
from swe_gym_env.grading import parsers, patches
from swe_gym_env.sandbox.base import ExecResult, Sandbox
from swe_gym_env.types import TaskInstance

PATCH = ".git/swe_gym.patch"  # not in /tmp, which sandboxes without isolation share
GIT_SECONDS = 60.0
ROOM = 64 << 20  # bytes that a grading sandbox has for any patch
MOST_READ = 200  # files of shared configuration that are compared; further ones are set back unread
# The names of touched files come from git, for both sides of a rename: applied in reverse, git
# names the old side. If the tree of an image differs from the base commit, a diff against that
# commit contains the difference too and does not apply; then the touched files are first set to the
# base commit. Printed are NUL-separated pairs: a path, and where it leads if it is a symbolic link,
# "." for another file, nothing if the patch deleted it. The last field is the real path of the
# repository.
APPLY = f"""
export LC_ALL=C
names() {{
  {{ git apply --numstat -z {PATCH} && git apply -R --numstat -z {PATCH}; }} 2>/dev/null |
    while IFS= read -r -d '' row; do printf '%s\\0' "${{row#*$'\\t'*$'\\t'}}"; done | sort -zu
}}
if ! git apply --whitespace=nowarn {PATCH} 2>/dev/null; then
  names | while IFS= read -r -d '' name; do
    case "/$name/" in *//*|*/../*|*/.git/*) continue;; esac
    git --literal-pathspecs checkout -q BASE -- "$name" 2>/dev/null || rm -f -- "$name"
  done
  git apply --whitespace=nowarn {PATCH} || exit 1
fi
names | while IFS= read -r -d '' name; do
  if [ -L "$name" ]; then printf '%s\\0%s\\0' "$name" "$(realpath -m -- "$name")"
  elif [ -e "$name" ]; then printf '%s\\0.\\0' "$name"
  else printf '%s\\0\\0' "$name"; fi
done
rm {PATCH}
printf '%s' "$PWD"
"""
TRACKED = "git ls-tree -r -z --name-only BASE"
BACK = "xargs -0 -r git --literal-pathspecs checkout -q BASE --"
REMOVE = "xargs -0 -r rm -rf --"


@dataclass(frozen=True)
class Applied:
    """What became of a patch.

    Attributes:
        failed: The text for the log if the patch does not apply.
        tampered: Why the patch must not be graded; empty if it may be.
        left_out: Parts of the patch that were not applied and why, one sentence each.
    """

    failed: str = ""
    tampered: str = ""
    left_out: tuple[str, ...] = ()


def apply(sandbox: Sandbox, task: TaskInstance, patch: str) -> Applied:
    """Apply ``patch`` in a grading sandbox and check what it touched.

    Raises:
        OSError: The patch cannot be written to the sandbox.
        GradingError: git failed for a reason that is not the patch's.
        SandboxError: The sandbox has ended.
    """
    if not patch.endswith("\n"):  # the last newline is often lost in an answer or a web form
        patch += "\n"
    data = patch.encode("utf-8", "surrogateescape")
    sandbox.write(f"{task.workdir}/{PATCH}", data)
    done = _run(sandbox, task, APPLY)
    text = done.output.decode("utf-8", "surrogateescape")
    if done.exit_code != 0:
        end = text.strip()[-300:]
        if "No space left" in end and patches.unpacked(patch) < ROOM:
            raise GradingError(f"the sandbox has no room for the patch: {end}")
        return Applied(f"{parsers.APPLY_FAILED}:\n{end}\n", patches.refused(patch, end))
    *fields, root = text.split("\0")
    touched = dict(zip(fields[::2], fields[1::2], strict=True))
    return _checked(sandbox, task, touched, root)


def _checked(sandbox: Sandbox, task: TaskInstance, touched: dict[str, str], root: str) -> Applied:
    """Check the touched paths and set back what must not stay.

    Args:
        sandbox: The grading sandbox, with the patch applied.
        task: The task.
        touched: For each path, where it leads if it is a link, "." for another file, "" if it was
            deleted.
        root: Real path of the repository in the sandbox.
    """
    listed = _succeeded(_run(sandbox, task, TRACKED), "list the base commit")
    base = frozenset(listed.output.decode("utf-8", "surrogateescape").split("\0")[:-1])
    gold, hidden = patches.named(task.gold_patch), patches.hidden(task)
    restore = patches.overlapping(hidden, touched)
    tops = {patches.top_module(name) for name in base}
    left_out = dict[str, str]()  # path -> why; nothing at or below the path stays
    left_out |= patches.virtual_environments(touched.keys() - base - gold, base)
    shared = []  # files that hold other settings beside those of pytest
    for name in sorted(touched):
        target, top = touched[name], patches.top_module(name)
        if name in left_out or any(path in left_out for path in patches.above(name)):
            continue
        if target not in ("", ".") and not patches.inside(target, root):
            reason = f"{name} is a link out of the repository, to {target}"
            if patches.is_config(name) or patches.overlapping(hidden, (name,)):
                return Applied(tampered=reason)
            if patches.reaches_git(target, root):
                return Applied(tampered=reason)
            left_out[name] = reason
        elif name in gold:
            continue
        elif target and (reason := patches.forbidden(name, top in tops)):
            if not patches.shadows_nothing(name, touched):
                return Applied(tampered=reason)
            left_out[top] = reason
        elif patches.is_config(name):
            restore.add(name)
        elif name.lower().endswith((*patches.SHARED_CONFIG, "entry_points.txt")):
            shared.append(name)
    restore.update(shared[MOST_READ:])
    for name in shared[:MOST_READ]:
        old, new = _at_base(sandbox, task, name) if name in base else "", _now(sandbox, task, name)
        if patches.plugin_entry(name, new) and not patches.plugin_entry(name, old):
            reason = f"{name} would load a plugin into pytest"
            if not _makes_plugins(sandbox, task, base):
                return Applied(tampered=reason)
            left_out[name] = reason
        elif patches.pytest_options(name, old) != patches.pytest_options(name, new):
            restore.add(name)
    _set_back(sandbox, task, {*restore, *left_out}, base)
    return Applied(left_out=tuple(left_out.values()))


def _set_back(sandbox: Sandbox, task: TaskInstance, names: set[str], base: frozenset[str]) -> None:
    """Make these paths, and all below them, what they are in the base commit; else remove them."""
    if not names:
        return
    there = sorted(n for n in base if n in names or any(p in names for p in patches.above(n)))
    for script, some in ((REMOVE, sorted(names)), (BACK, there)):
        stdin = "".join(f"{name}\0" for name in some).encode("utf-8", "surrogateescape")
        _succeeded(_run(sandbox, task, script, stdin), "set files back")


def _makes_plugins(sandbox: Sandbox, task: TaskInstance, base: Iterable[str]) -> bool:
    """Whether the project itself is a plugin of pytest, by its metadata at the base commit."""
    files = [name for name in ("setup.py", "setup.cfg", "pyproject.toml") if name in base]
    return any("pytest11" in _at_base(sandbox, task, name) for name in files)


def _run(sandbox: Sandbox, task: TaskInstance, script: str, stdin: bytes = b"") -> ExecResult:
    script = script.replace("BASE", shlex.quote(task.base_commit))
    return sandbox.exec(script, timeout=GIT_SECONDS, cwd=task.workdir, stdin=stdin)


def _succeeded(done: ExecResult, what: str) -> ExecResult:
    """``done``, if it succeeded with its output complete. Raises GradingError otherwise."""
    if done.exit_code != 0 or done.dropped:
        end = done.output.decode("utf-8", "replace").strip()[-300:]
        raise GradingError(f"git could not {what}: {end or done.exit_code}")
    return done


def _at_base(sandbox: Sandbox, task: TaskInstance, name: str) -> str:
    what = shlex.quote(f"{task.base_commit}:{name}")
    done = sandbox.exec(f"git show {what}", timeout=GIT_SECONDS, cwd=task.workdir)
    return done.output.decode("utf-8", "replace") if done.exit_code == 0 else ""


def _now(sandbox: Sandbox, task: TaskInstance, name: str) -> str:
    try:
        return sandbox.read(f"{task.workdir}/{name}").decode("utf-8", "replace")
    except OSError:
        return ""
