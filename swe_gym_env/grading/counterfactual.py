"""Ask what the tests would have said of another world: a cheat passes whatever they say.

Where a run says ``resolved``, the tests run once more in a fresh sandbox, on the same patch, with
twins of those that had to begin to pass (``twins.py``). Each twin is false in one place, so honest
code fails it. A twin that passes, is skipped or is expected to fail is suspicious, and the same
twins then run on the gold patch: only if the gold patch fails a twin that the patch passes has the
patch been exposed. So a twin that happens to be no claim at all accuses nobody.

In the same way, a test that was skipped or failed as expected is compared with the gold patch: code
can raise ``pytest.skip`` wherever it would fail.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from swe_gym_env.errors import GradingError
from swe_gym_env.grading import hidden_tests
from swe_gym_env.grading.hidden_tests import HiddenFile
from swe_gym_env.grading.run import LIMITS, Run, run
from swe_gym_env.grading.twins import twin
from swe_gym_env.grading.verdict import (
    EXCUSED,
    FAILED,
    NOT_FAILED,
    failures_only,
    sealed,
    verdict,
)
from swe_gym_env.sandbox.base import SandboxProvider
from swe_gym_env.sandbox.start import start
from swe_gym_env.types import Outcome, TaskInstance


@dataclass(frozen=True)
class _Twins:
    task: TaskInstance  # with the twins in its test patch
    contents: Mapping[str, bytes]
    tests: Sequence[str]  # those that must fail


def examined(
    task: TaskInstance,
    patch: str,
    found: Run,
    outcome: Outcome,
    provider: SandboxProvider,
    timeout: float,
) -> Run:
    """Examine a run that says ``resolved``.

    Args:
        task: The task.
        patch: The patch that was graded.
        found: Its run.
        outcome: The verdict on that run.
        provider: What makes the sandboxes.
        timeout: Seconds that the tests may take, each time.

    Returns:
        ``found``, with the findings in its trailer. The verdict on it is the final one.

    Raises:
        InfraError: A sandbox failed.
        SetupError: Only the user can correct the cause.
    """

    def again(task: TaskInstance, patch: str, twins: Mapping[str, bytes] | None) -> Outcome:
        nonce = secrets.token_hex(8)
        one = run(task, patch, provider, timeout=timeout, nonce=nonce, twins=twins)
        return verdict(task, sealed(one.output, nonce, one.trailer), nonce)

    trailer = found.trailer
    gold = task.gold_patch if task.gold_patch.strip() != patch.strip() else ""
    excused = [test for test, status in outcome.tests.items() if status in EXCUSED]
    if excused and gold and "expected" not in task.metadata:
        statuses = again(task, gold, None).tests
        trailer = replace(trailer, gold={test: statuses.get(test, "") for test in excused})
        if any(status == "PASSED" for status in trailer.gold.values()):
            return replace(found, trailer=trailer)
    twins = _twins(task, found.files or _files(task, provider, timeout))
    if twins is not None:
        passed = _passed(task, twins, again(twins.task, patch, twins.contents))
        proved = list[str]()
        if passed and gold:
            other = again(twins.task, gold, twins.contents)
            still = _passed(task, twins, other) if other.tests else passed
            proved = [test for test in passed if test not in still]
        made = {"made": twins.tests, "passed": passed, "proved": proved}
        trailer = replace(trailer, twins=made)
    return replace(found, trailer=trailer)


def _files(
    task: TaskInstance, provider: SandboxProvider, timeout: float
) -> Mapping[str, HiddenFile]:
    if task.test_patch.strip():
        return {}
    sandbox = start(provider, task, LIMITS, for_agent=False)
    try:
        return hidden_tests.by_script(sandbox, task, timeout)
    except OSError as error:
        raise GradingError(f"the sandbox refused a file: {error}") from error
    finally:
        sandbox.close()


def _twins(task: TaskInstance, files: Mapping[str, HiddenFile]) -> _Twins | None:
    """Twins of the tests that had to begin to pass; None if none can be made."""
    draw = Random(secrets.randbits(64))
    contents, changed = {}, list[str]()
    for name, file in files.items():
        inside = [test for test in task.fail_to_pass if _may_hold(name, test)]
        contents[name], made = twin(file.content, inside, draw)
        changed += made
    if not changed:
        return None
    old = {name: file for name, file in files.items() if contents[name] != file.content}
    new = {name: contents[name] for name in old}
    return _Twins(hidden_tests.with_files(task, old, new), contents, sorted(set(changed)))


def _may_hold(name: str, test: str) -> bool:
    """Whether the file ``name`` may hold ``test``, as far as its id says."""
    file, found, _ = test.partition("::")
    return file == name if found and "." in file else True


def _passed(task: TaskInstance, twins: _Twins, outcome: Outcome) -> list[str]:
    """The twins that did not fail."""
    if not outcome.tests:
        return []
    if failures_only(task):
        return [test for test in twins.tests if outcome.tests.get(test) not in FAILED]
    return [test for test in twins.tests if outcome.tests.get(test) in NOT_FAILED]
