"""The verdict on a patch: it is applied in a fresh sandbox, hidden tests are put over it, and run.

Nothing of the agent's own sandbox is trusted but the diff. A fault of the machinery is never the
agent's 0: it is retried in a new sandbox and comes back as a masked ``infra_error``. What guards
the verdict is told in ``docs/reference/grading.md``.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import replace

from swe_gym_env.errors import GradingError, InfraError
from swe_gym_env.grading import patches, script
from swe_gym_env.grading.apply import Applied, apply
from swe_gym_env.grading.extract import MAX_PATCH, Extracted, diff, too_large
from swe_gym_env.grading.recorder import TestRecorder, recorder
from swe_gym_env.grading.verdict import Trailer, noted, sealed, verdict
from swe_gym_env.sandbox.base import ExecResult, Limits, Sandbox, SandboxProvider
from swe_gym_env.sandbox.start import start
from swe_gym_env.types import Outcome, TaskInstance

__all__ = ["MAX_PATCH", "diff", "grade", "score", "verdict"]

log = logging.getLogger(__name__)

LONGEST = 100_000  # bytes; the kernel takes no longer single argument than 128 KiB
# Not in /tmp, which sandboxes without isolation share; under .git a diff does not see it
SCRIPT = ".git/swe_gym_eval.sh"


def grade(
    task: TaskInstance,
    patch: str,
    provider: SandboxProvider,
    *,
    timeout: float = 300.0,
    retries: int = 1,
    allow_empty: bool = False,
    on_log: Callable[[str, str], None] | None = None,
) -> Outcome:
    """Run the task's hidden tests on ``patch``; ``timeout`` in seconds. An absent test failed.

    ``allow_empty`` runs them on no change too (to see that they fail). ``on_log`` gets every run's
    log and nonce, which :func:`verdict` takes to the same outcome again.
    """
    started = time.monotonic()
    if not patch.strip() and not allow_empty:
        return Outcome("empty_patch", reason="no change")
    if reason := _unfit(patch):
        return Outcome("unresolved", reason=reason)
    fault = ""
    for _ in range(retries + 1):
        try:
            nonce = secrets.token_hex(8)
            text = _run(task, patch, provider, timeout, nonce)
            if on_log is not None:
                on_log(text, nonce)
            return replace(verdict(task, text, nonce), seconds=time.monotonic() - started)
        except InfraError as error:
            fault = f"{error.cause}: {error}"
            log.warning("%s: grading failed: %s", task.instance_id, fault)
    seconds = time.monotonic() - started
    return Outcome("infra_error", mask=True, reason=fault, seconds=seconds)


def score(
    task: TaskInstance, found: Extracted, provider: SandboxProvider, *, timeout: float = 300.0
) -> Outcome:
    """As :func:`grade`, for what was taken from an agent's sandbox. The reason says what the agent
    did to its repository, and, if nothing is left, what is not in the patch."""
    if found.refused:
        return Outcome("unresolved", reason=found.refused)
    outcome = grade(task, found.patch, provider, timeout=timeout)
    if outcome.status == "infra_error":
        return outcome
    if outcome.status == "empty_patch":
        outcome = noted(outcome, "left out", found.left_out)
    return noted(outcome, "note", [found.note] if found.note else [])


def _unfit(patch: str) -> str:
    """Why a patch is not even tried; empty if it is."""
    try:
        size = len(patch.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError as error:
        half = f"U+{ord(patch[error.start]):04X}"
        return f"the patch holds half of a character ({half} at {error.start}), as no file can"
    return too_large(f"{size} bytes, more than ") if size > MAX_PATCH else ""


def _run(
    task: TaskInstance, patch: str, provider: SandboxProvider, timeout: float, nonce: str
) -> str:
    """The log of one run in one sandbox, sealed with what was seen from outside."""
    limits = Limits(output=16 << 20)
    sandbox = start(provider, task, limits, for_agent=False)
    try:
        applied = Applied()
        if patch.strip():
            applied = apply(sandbox, task, patch)
            if applied.failed or applied.tampered:
                return sealed(applied.failed, nonce, Trailer(tampered=applied.tampered))
        hidden = sorted(patches.hidden(task))
        spy = recorder(script.test_commands(task.eval_script), f"{task.workdir}/.git", hidden)
        run = _execute(sandbox, task, spy, nonce, timeout)
        trailer = Trailer(
            exit=run.exit_code,
            timeout=timeout if run.timed_out else 0.0,
            left_out=applied.left_out,
            canary=spy.canary if spy else "",
            records=spy.read(_record(sandbox, spy)) if spy and not run.timed_out else (),
        )
    except OSError as error:
        raise GradingError(f"the sandbox refused a file: {error}") from error
    finally:
        sandbox.close()
    return sealed(run.output.decode("utf-8", "replace"), nonce, trailer)


def _execute(
    sandbox: Sandbox, task: TaskInstance, spy: TestRecorder | None, nonce: str, timeout: float
) -> ExecResult:
    if spy is not None:
        sandbox.write(f"{spy.folder}/{spy.module}.py", spy.source())
    text = script.prepared(task.eval_script, spy.exports() if spy else ())
    data = text.encode("utf-8", "surrogateescape")
    if len(data) > LONGEST:
        sandbox.write(f"{task.workdir}/{SCRIPT}", data)
        text = f". {SCRIPT}\n"
    stdin = f"{nonce}\n".encode()
    return sandbox.exec(script.PROLOGUE + text, timeout=timeout, cwd=task.workdir, stdin=stdin)


def _record(sandbox: Sandbox, spy: TestRecorder) -> bytes:
    try:
        return sandbox.read(spy.record)
    except OSError:
        return b""
