"""Put an agent's patch into the grading sandbox: applied by git, looked at, its test edits
undone."""

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
MOST_READ = 200  # files of shared configuration that are read; more are set back unread
# Names come from git itself, both sides of a rename (in reverse, git names the old side). Where an
# image's tree is not quite the base commit, a diff against the base holds that difference too: then
# the files that it touches are set to the base first. A link is followed to see where it leads.
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
    """``failed``: what to log where the patch does not apply. ``tampered``: why it must not be
    graded. ``left_out``: what of it was not applied, one sentence each."""

    failed: str = ""
    tampered: str = ""
    left_out: tuple[str, ...] = ()


def apply(sandbox: Sandbox, task: TaskInstance, patch: str) -> Applied:
    """Raises OSError, SandboxError, GradingError."""
    if not patch.endswith("\n"):  # what was written in an answer or a form often lost it
        patch += "\n"
    data = patch.encode("utf-8", "surrogateescape")
    sandbox.write(f"{task.workdir}/{PATCH}", data)
    done = _run(sandbox, task, APPLY)
    text = done.output.decode("utf-8", "surrogateescape")
    if done.exit_code != 0:
        said = text.strip()[-300:]
        if "No space left" in said and patches.unpacked(patch) < ROOM:
            raise GradingError(f"the sandbox has no room for the patch: {said}")
        return Applied(f"{parsers.APPLY_FAILED}:\n{said}\n", patches.refused(patch, said))
    *fields, root = text.split("\0")
    touched = dict(zip(fields[::2], fields[1::2], strict=True))
    return _looked_at(sandbox, task, touched, root)


def _looked_at(sandbox: Sandbox, task: TaskInstance, touched: dict[str, str], root: str) -> Applied:
    """``touched``: where a link leads, "." for a file, "" for what is not there any more."""
    listed = _checked(_run(sandbox, task, TRACKED), "list the base commit")
    base = frozenset(listed.output.decode("utf-8", "surrogateescape").split("\0")[:-1])
    gold, hidden = patches.named(task.gold_patch), patches.hidden(task)
    restore = patches.overlapping(hidden, touched)
    tops = {patches.top_module(name) for name in base}
    left_out = dict[str, str]()  # path: why; nothing at or below the path is applied
    left_out |= patches.virtual_environments(touched.keys() - base - gold, base)
    shared = []
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
        elif name.endswith((*patches.SHARED_CONFIG, "entry_points.txt")):
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
    """What is at these paths is what the base commit has there, or nothing."""
    if not names:
        return
    there = sorted(n for n in base if n in names or any(p in names for p in patches.above(n)))
    for script, some in ((REMOVE, sorted(names)), (BACK, there)):
        stdin = "".join(f"{name}\0" for name in some).encode("utf-8", "surrogateescape")
        _checked(_run(sandbox, task, script, stdin), "set files back")


def _makes_plugins(sandbox: Sandbox, task: TaskInstance, base: Iterable[str]) -> bool:
    """Whether the project itself is a plugin of pytest, by its own metadata at the base commit."""
    files = [name for name in ("setup.py", "setup.cfg", "pyproject.toml") if name in base]
    return any("pytest11" in _at_base(sandbox, task, name) for name in files)


def _run(sandbox: Sandbox, task: TaskInstance, script: str, stdin: bytes = b"") -> ExecResult:
    script = script.replace("BASE", shlex.quote(task.base_commit))
    return sandbox.exec(script, timeout=GIT_SECONDS, cwd=task.workdir, stdin=stdin)


def _checked(done: ExecResult, what: str) -> ExecResult:
    if done.exit_code != 0 or done.dropped:
        said = done.output.decode("utf-8", "replace").strip()[-300:]
        raise GradingError(f"git could not {what}: {said or done.exit_code}")
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
