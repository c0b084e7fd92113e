"""A task's sandbox, set up: where an image alone is not yet the task.

Task sets that share one image among many bugs, or whose images hold the hidden tests or the later
history, say in ``metadata`` what is to be run: ``setup`` in every sandbox of the task, ``hide``
after that in the agent's only (without it, the history after the base commit is taken out there).
All leave the same tree at ``task.base_commit``, so that what the agent changed in one sandbox
applies in the other.
"""

from __future__ import annotations

import shlex
from dataclasses import replace

from swe_gym_env.errors import SandboxError, SetupError
from swe_gym_env.sandbox.base import Limits, Sandbox, SandboxProvider, SandboxSpec
from swe_gym_env.sandbox.history import scrub
from swe_gym_env.types import TaskInstance

SECONDS = 300.0  # a history of gigabytes takes a while to be left behind
SCRIPT = ".git/swe_gym_setup.sh"
BASE_SECONDS = 60.0
WRONG_IMAGE = 3  # exit code of BASE: only the user can mend what was found
BASE = """
export LC_ALL=C GIT_NO_REPLACE_OBJECTS=1
refuse() { printf '%s' "$1"; exit 3; }
command -v git >/dev/null || refuse 'git is not installed in it'
[ -e .git ] || refuse 'its working folder is no git repository'
[ -d .git ] || refuse 'its .git is a file; make it from a clone, not a worktree or a submodule'
full=$(git rev-parse --verify BASE 2>&1) && printf '%s' "${full##*$'\\n'}" && exit 0
case $full in
  *'is ambiguous'*) refuse 'several of its commits begin like this; write the whole hash' ;;
  *dubious*|*'not a git repo'*|*'bad config'*) refuse "git cannot use its repository: $full" ;;
esac
refuse 'its repository holds no such commit'
"""
_bases: dict[tuple[str, str, str], str] = {}  # (image, folder, base commit as written): full hash


def start(
    provider: SandboxProvider,
    task: TaskInstance,
    limits: Limits = Limits(),  # noqa: B008  (frozen)
    for_agent: bool = True,
) -> Sandbox:
    """Raises SandboxError for a fault, a set-up that fails included; SetupError as ``create``, and
    where the image does not hold the task's base commit."""
    sandbox = provider.create(SandboxSpec.of(task, limits))
    try:
        for name in ("setup", "hide") if for_agent else ("setup",):
            if script := task.metadata.get(name):
                _run(sandbox, task, name, script)
        task = replace(task, base_commit=base_commit(sandbox, task))
        if for_agent and "hide" not in task.metadata:
            scrub(sandbox, task)
    except BaseException:
        sandbox.close()
        raise
    return sandbox


def base_commit(sandbox: Sandbox, task: TaskInstance) -> str:
    """The full hash of ``task.base_commit``, which may be short or a tag, in a sandbox of the task.

    An image is asked once in a process, unless a tag is given.
    Raises SetupError where the image holds no such commit, no repository, no git or no such folder;
    SandboxError where the sandbox did not answer.
    """
    key = (task.image, task.workdir, task.base_commit)
    if key in _bases:
        return _bases[key]
    named = shlex.quote(f"{task.base_commit}^{{commit}}")
    done = sandbox.exec(BASE.replace("BASE", named), timeout=BASE_SECONDS, cwd=task.workdir)
    said = done.output.decode("utf-8", "replace").strip()
    if done.exit_code == 126 and said.startswith("bash: cd: "):
        said = f"its folder {task.workdir} cannot be entered ({said.rpartition(': ')[2]})"
    elif done.exit_code not in (0, WRONG_IMAGE):
        why = "it took too long" if done.timed_out else said[-300:] or f"exit {done.exit_code}"
        raise SandboxError(f"{task.instance_id}: the base commit could not be looked up: {why}")
    if done.exit_code != 0:
        raise SetupError(
            f"{task.instance_id}: the image {task.image!r} does not hold its base_commit "
            f"{task.base_commit!r}: {said}. Correct the row, or use the image that its task was "
            "made from."
        )
    if said.startswith(
        task.base_commit.lower()
    ):  # not a tag, which each sandbox may have made anew
        _bases[key] = said
    return said


def _run(sandbox: Sandbox, task: TaskInstance, name: str, script: str) -> None:
    path = f"{task.workdir}/{SCRIPT}"
    try:  # as a file: a single argument of a program has a limit
        sandbox.write(path, script.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise SandboxError(f"{task.instance_id}: no place for its {name}: {error}") from error
    command = f"bash -e {SCRIPT} && rm -f {SCRIPT}"
    done = sandbox.exec(command, timeout=SECONDS, cwd=task.workdir)
    if done.exit_code != 0:
        said = done.output.decode("utf-8", "replace").strip()[-300:]
        raise SandboxError(f"{task.instance_id}: its {name} failed: {said or done.exit_code}")
