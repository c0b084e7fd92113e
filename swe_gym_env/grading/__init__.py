"""Grade a patch: apply it in a fresh sandbox, put the hidden tests over it, and run them.

Of the agent's sandbox only the diff is used, since anything else in it may have been changed to
deceive. A fault of the infrastructure never becomes a reward of 0: the grading is retried in a new
sandbox, and at last becomes a masked ``infra_error``.

The steps, one module each: ``extract`` takes the patch from the agent's sandbox (``rescue`` where
git fails there), ``run`` runs the tests on it: ``apply`` puts it into the grading sandbox,
``restore`` and ``script`` prepare the test run, ``recorder`` and ``plugin`` report what pytest
itself saw. ``parsers`` read the log, and ``verdict`` decides. What it would resolve,
``counterfactual`` runs again with ``twins`` of the ``hidden_tests`` that must fail.
``docs/reference/grading.md`` describes how the verdict is protected.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import replace

from swe_gym_env.errors import InfraError
from swe_gym_env.grading.counterfactual import examined
from swe_gym_env.grading.extract import MAX_PATCH, Extracted, diff, too_large
from swe_gym_env.grading.run import run
from swe_gym_env.grading.verdict import noted, sealed, verdict
from swe_gym_env.sandbox.base import SandboxProvider
from swe_gym_env.types import Outcome, TaskInstance

__all__ = ["MAX_PATCH", "diff", "grade", "score", "verdict"]

log = logging.getLogger(__name__)


def grade(
    task: TaskInstance,
    patch: str,
    provider: SandboxProvider,
    *,
    timeout: float = 300.0,
    retries: int = 1,
    allow_empty: bool = False,
    counterfactual: bool = True,
    on_log: Callable[[str, str], None] | None = None,
) -> Outcome:
    """Run the hidden tests of ``task`` on ``patch``. A test that does not appear has failed.

    Args:
        task: The task.
        patch: The agent's change as a diff.
        provider: What makes the grading sandbox.
        timeout: Seconds that the tests may take.
        retries: Further attempts after a fault of the infrastructure.
        allow_empty: Whether the tests also run without a change, to check that they fail.
        counterfactual: Whether the tests run once more, with twins that must fail, where they would
            be resolved (``counterfactual.py``).
        on_log: Called with the log and the nonce of each run. :func:`verdict` computes the same
            outcome from them again.

    Returns:
        The outcome. A fault of the infrastructure is returned as ``infra_error``, not raised.

    Raises:
        SetupError: Only the user can correct the cause, for example a missing image.
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
            found = run(task, patch, provider, timeout=timeout, nonce=nonce)
            text = sealed(found.output, nonce, found.trailer)
            outcome = verdict(task, text, nonce)
            if outcome.resolved and counterfactual:
                found = examined(task, patch, found, outcome, provider, timeout)
                text = sealed(found.output, nonce, found.trailer)
                outcome = verdict(task, text, nonce)
            if on_log is not None:
                on_log(text, nonce)
            return replace(outcome, seconds=time.monotonic() - started)
        except InfraError as error:
            fault = f"{error.cause}: {error}"
            log.warning("%s: grading failed: %s", task.instance_id, fault)
    seconds = time.monotonic() - started
    return Outcome("infra_error", mask=True, reason=fault, seconds=seconds)


def score(
    task: TaskInstance, found: Extracted, provider: SandboxProvider, *, timeout: float = 300.0
) -> Outcome:
    """Grade what was extracted from an agent's sandbox (see :func:`grade`).

    The reason of the outcome also says how the patch was made, if not in the usual way, and what
    was left out, if the patch is empty.
    """
    if found.refused:
        return Outcome("unresolved", reason=found.refused)
    outcome = grade(task, found.patch, provider, timeout=timeout)
    if outcome.status == "infra_error":
        return outcome
    if outcome.status == "empty_patch":
        outcome = noted(outcome, "left out", found.left_out)
    return noted(outcome, "note", [found.note] if found.note else [])


def _unfit(patch: str) -> str:
    """Why a patch is rejected without a run; empty if it is not."""
    try:
        size = len(patch.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError as error:
        half = f"U+{ord(patch[error.start]):04X}"
        return f"the patch holds half of a character ({half} at {error.start}), as no file can"
    return too_large(f"{size} bytes, more than ") if size > MAX_PATCH else ""
