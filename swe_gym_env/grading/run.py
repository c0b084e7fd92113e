"""Run the hidden tests once, on one patch, in one fresh sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from swe_gym_env.errors import GradingError
from swe_gym_env.grading import hidden_tests, patches, restore, script
from swe_gym_env.grading.apply import Applied, apply
from swe_gym_env.grading.hidden_tests import HiddenFile
from swe_gym_env.grading.recorder import TestRecorder, recorder
from swe_gym_env.grading.verdict import Trailer
from swe_gym_env.sandbox.base import ExecResult, Limits, Sandbox, SandboxProvider
from swe_gym_env.sandbox.start import start
from swe_gym_env.types import TaskInstance

LONGEST = 100_000  # bytes of a script on the command line; the kernel's limit is 128 KiB
# Longer scripts go into this file. It is not in /tmp, which sandboxes without isolation share, and
# below .git a diff does not show it.
SCRIPT = ".git/swe_gym_eval.sh"
LIMITS = Limits(output=16 << 20)


@dataclass(frozen=True)
class Run:
    """What one run gave.

    Attributes:
        output: The output of the eval script, or why it was not run.
        trailer: What was seen from outside of the sandbox.
        files: The hidden tests' files, as far as the test patch says.
    """

    output: str
    trailer: Trailer
    files: Mapping[str, HiddenFile] = field(default_factory=dict)


def run(
    task: TaskInstance,
    patch: str,
    provider: SandboxProvider,
    *,
    timeout: float,
    nonce: str,
    twins: Mapping[str, bytes] | None = None,
) -> Run:
    """Apply ``patch`` and run the eval script of ``task``.

    Args:
        task: The task.
        patch: The change; nothing is applied if it is empty.
        provider: What makes the sandbox.
        timeout: Seconds that the script may take.
        nonce: The word that marks the output of the tests.
        twins: Files that are written just before the tests, in place of the hidden tests.

    Raises:
        InfraError: The sandbox failed.
        SetupError: Only the user can correct the cause.
    """
    sandbox = start(provider, task, LIMITS, for_agent=False)
    try:
        files = {}
        if twins is None and task.test_patch.strip():
            files = hidden_tests.by_patch(sandbox, task)
            twins = {name: file.content for name, file in files.items()}
        around = restore.keep(sandbox, task) if patch.strip() else ""
        applied = apply(sandbox, task, patch) if patch.strip() else Applied()
        if applied.failed or applied.tampered:
            return Run(applied.failed, Trailer(tampered=applied.tampered))
        restored = restore.block(task.workdir, [around, restore.written(twins or {})])
        hidden = sorted(patches.hidden(task))
        plugin = recorder(script.test_commands(task.eval_script), f"{task.workdir}/.git", hidden)
        done = _execute(sandbox, task, plugin, restored, nonce, timeout)
        trailer = Trailer(
            exit=done.exit_code,
            timeout=timeout if done.timed_out else 0.0,
            left_out=applied.left_out,
            canary=plugin.canary if plugin else "",
            records=plugin.read(_record(sandbox, plugin)) if plugin and not done.timed_out else (),
        )
    except OSError as error:
        raise GradingError(f"the sandbox refused a file: {error}") from error
    finally:
        sandbox.close()
    return Run(done.output.decode("utf-8", "replace"), trailer, files)


def _execute(
    sandbox: Sandbox,
    task: TaskInstance,
    plugin: TestRecorder | None,
    restored: str,
    nonce: str,
    timeout: float,
) -> ExecResult:
    if plugin is not None:
        sandbox.write(f"{plugin.folder}/{plugin.module}.py", plugin.source())
    text = script.prepared(task.eval_script, restored, plugin.exports() if plugin else ())
    data = text.encode("utf-8", "surrogateescape")
    if len(data) > LONGEST:
        sandbox.write(f"{task.workdir}/{SCRIPT}", data)
        text = f". {SCRIPT}\n"
    stdin = f"{nonce}\n".encode()
    return sandbox.exec(script.PROLOGUE + text, timeout=timeout, cwd=task.workdir, stdin=stdin)


def _record(sandbox: Sandbox, plugin: TestRecorder) -> bytes:
    try:
        return sandbox.read(plugin.record)
    except OSError:
        return b""
