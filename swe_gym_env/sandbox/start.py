"""Start the sandbox of a task and prepare it, where the image alone is not yet the task.

Some task sets share one image among many bugs; the images of others contain the hidden tests or
the later history. Such tasks name scripts in ``metadata``: ``setup`` runs in every sandbox of the
task, and ``hide`` runs after it in the agent's sandbox only. Without a ``hide`` script, the history
after the base commit is removed from the agent's sandbox. In all cases the tree is the one of
``task.base_commit``, so that a change made in the agent's sandbox applies in the grading sandbox.
"""

from __future__ import annotations

import shlex
from dataclasses import replace

from swe_gym_env.errors import SandboxError, SetupError
from swe_gym_env.sandbox.base import Limits, Sandbox, SandboxProvider, SandboxSpec
from swe_gym_env.sandbox.history import scrub
from swe_gym_env.types import TaskInstance

SECONDS = 300.0  # for a script: one that discards a history of gigabytes takes minutes
SCRIPT = ".git/swe_gym_setup.sh"
BASE_SECONDS = 60.0
WRONG_IMAGE = 3  # exit code of BASE: only the user can correct the problem
# Prints the full hash of the base commit, or why the repository cannot give it
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
    """Make the sandbox of ``task`` and run its scripts.

    Args:
        provider: What makes the sandbox.
        task: The task; its ``metadata`` may hold the scripts ``setup`` and ``hide``.
        limits: What the sandbox may use.
        for_agent: Whether an agent will work in the sandbox. False is for grading, where the hidden
            tests and the later history may be visible.

    Returns:
        A sandbox that the caller must close.

    Raises:
        SandboxError: The infrastructure failed, or a script of the task did.
        SetupError: As for ``provider.create``, or the image does not contain the base commit.
    """
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
    """The full hash of ``task.base_commit``, which may be a short hash or a tag.

    The answer is cached for each image of this process. The hash of a tag is not, because each
    sandbox may have set the tag anew.

    Args:
        sandbox: A running sandbox of the task.
        task: The task.

    Raises:
        SetupError: The image has no such commit, no repository, no git or no such folder.
        SandboxError: The sandbox did not answer.
    """
    key = (task.image, task.workdir, task.base_commit)
    if key in _bases:
        return _bases[key]
    named = shlex.quote(f"{task.base_commit}^{{commit}}")
    done = sandbox.exec(BASE.replace("BASE", named), timeout=BASE_SECONDS, cwd=task.workdir)
    answer = done.output.decode("utf-8", "replace").strip()
    if done.exit_code == 126 and answer.startswith("bash: cd: "):
        answer = f"its folder {task.workdir} cannot be entered ({answer.rpartition(': ')[2]})"
    elif done.exit_code not in (0, WRONG_IMAGE):
        why = "it took too long" if done.timed_out else answer[-300:] or f"exit {done.exit_code}"
        raise SandboxError(f"{task.instance_id}: the base commit could not be looked up: {why}")
    if done.exit_code != 0:
        raise SetupError(
            f"{task.instance_id}: the image {task.image!r} does not hold its base_commit "
            f"{task.base_commit!r}: {answer}. Correct the row, or use the image that its task was "
            "made from."
        )
    if answer.startswith(task.base_commit.lower()):  # a hash, not a tag
        _bases[key] = answer
    return answer


def _run(sandbox: Sandbox, task: TaskInstance, name: str, script: str) -> None:
    path = f"{task.workdir}/{SCRIPT}"
    try:  # as a file, since the kernel limits the length of one argument of a program
        sandbox.write(path, script.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise SandboxError(f"{task.instance_id}: no place for its {name}: {error}") from error
    command = f"bash -e {SCRIPT} && rm -f {SCRIPT}"
    done = sandbox.exec(command, timeout=SECONDS, cwd=task.workdir)
    if done.exit_code != 0:
        end = done.output.decode("utf-8", "replace").strip()[-300:]
        raise SandboxError(f"{task.instance_id}: its {name} failed: {end or done.exit_code}")
