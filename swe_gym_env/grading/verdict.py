"""Compute the outcome from the log of a graded run, by the rules of swebench and further checks.

The log alone is sufficient, so that it can be stored and judged again. Its last line, the trailer,
is written by the grader: what it saw from outside of the sandbox (exit code, time limit) and what
the test recorder reported. The checks against cheating come last and can only turn ``resolved``
into ``tampered``; they never change the outcome of an honest failure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from swe_gym_env.errors import GradingError
from swe_gym_env.grading import parsers
from swe_gym_env.grading.recorder import begins, contradiction, recorded
from swe_gym_env.types import Outcome, TaskInstance

TRAILER = ">>>>> Grading"
PASSED = ("PASSED", "XFAIL")  # what a test that must pass may have
FAILED = ("FAILED", "ERROR")
EXCUSED = ("SKIPPED", "XFAIL")  # neither passed nor failed
NOT_FAILED = ("PASSED", "XPASS", *EXCUSED)
MOST_NOTES = 5  # that a reason quotes


@dataclass(frozen=True)
class Trailer:
    """The last line of a log. The names of the fields are keys of stored logs.

    Attributes:
        exit: Exit code of the test command; None if nothing was run.
        timeout: The time limit in seconds, if the run exceeded it; otherwise 0.
        tampered: Why nothing was run; empty if it was.
        left_out: Parts of the patch that were not applied and why, one sentence each.
        canary: Name of the test that must fail; empty without a test recorder.
        records: Records of the test recorder, one for each call of pytest.
        gold: Of tests that were skipped or failed as expected, their status with the gold patch.
        twins: The tests of which twins were made (``made``; see ``counterfactual.py``), those whose
            twins did not fail (``passed``), and those of them that the gold patch fails
            (``proved``). Empty if no twin ran.
    """

    exit: int | None = None
    timeout: float = 0.0
    tampered: str = ""
    left_out: Sequence[str] = ()
    canary: str = ""
    records: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    gold: Mapping[str, str] = field(default_factory=dict)
    twins: Mapping[str, Sequence[str]] = field(default_factory=dict)


def sealed(log: str, word: str, trailer: Trailer) -> str:
    """``log`` with its trailer. ``word`` is the nonce, which marks the trailer as the grader's."""
    return f"{log}\n{TRAILER} {word} {json.dumps(asdict(trailer))}\n"


def opened(log: str, nonce: str) -> tuple[str, Trailer]:
    """The output of the run and the trailer of a log (see :func:`sealed`).

    Raises:
        GradingError: The log has no trailer.
    """
    text, found, last = log.rpartition(f"\n{TRAILER} {nonce} ")
    if not found:
        raise GradingError("the log has no trailer: it is not one of ours, or was cut")
    return text, Trailer(**json.loads(last))


def verdict(task: TaskInstance, log: str, nonce: str) -> Outcome:
    """Compute the outcome of a stored log.

    Args:
        task: The task.
        log: The log as passed to ``on_log`` of :func:`swe_gym_env.grading.grade`.
        nonce: The nonce of that run.

    Raises:
        GradingError: The log says nothing about the patch, because it has no trailer or the tests
            did not start.
    """
    text, trailer = opened(log, nonce)
    return noted(_outcome(task, text, nonce, trailer), "left out", trailer.left_out)


def noted(outcome: Outcome, what: str, notes: Sequence[str]) -> Outcome:
    """``outcome`` with the first ``MOST_NOTES`` notes in its reason, introduced by ``what``."""
    if not notes:
        return outcome
    few = "; ".join([*notes[:MOST_NOTES], *(["..."] if len(notes) > MOST_NOTES else [])])
    return replace(outcome, reason="; ".join(filter(None, [outcome.reason, f"{what}: {few}"])))


def _outcome(task: TaskInstance, text: str, nonce: str, trailer: Trailer) -> Outcome:
    """The outcome as far as it follows without the statuses of single tests."""
    if trailer.tampered:
        return Outcome("tampered", reason=trailer.tampered)
    if trailer.timeout:
        return Outcome("timeout", reason=f"the tests took longer than {trailer.timeout:.0f} s")
    for words, reason in parsers.VOID.items():
        if words in text:
            more = text.strip()[-300:] if words == parsers.APPLY_FAILED else ""
            return Outcome("unresolved", reason=f"{reason}: {more}" if more else reason)
    output = parsers.test_output(text, nonce)
    if output is None:
        if f"{parsers.START} {nonce}" not in text and (trailer.exit or 0) < 128:
            raise GradingError(f"the tests did not start: {text[-300:]}")
        return Outcome("unresolved", reason="the test run was cut short")
    return _judged(task, output, trailer)


def _judged(task: TaskInstance, output: str, trailer: Trailer) -> Outcome:
    """The outcome by the statuses of the tests. ``output``: of the test run alone."""
    wanted = (*task.fail_to_pass, *task.pass_to_pass)
    parse = parsers.several(parsers.parser(task.log_parser), len(trailer.records))
    statuses = parse(output, frozenset(wanted))
    ours = [test for test in statuses if trailer.canary and test.endswith(f"::{trailer.canary}")]
    canaries = [statuses.pop(test) for test in ours]
    tests = {test: _status(test, statuses) for test in wanted}
    reason = _void(task, output, statuses, trailer)
    expected = task.metadata.get("expected")
    if expected is None:
        reason = reason or _why(task, tests) or _excused(tests, trailer.gold)
    else:  # the task names the status of every test, known failures included
        tests = {test: statuses.get(test, "ABSENT") for test in {**expected, **statuses}}
        unlike = [test for test, status in tests.items() if status != expected.get(test)]
        reason = reason or (f"{len(unlike)} tests say other than they should" if unlike else "")
    if reason:
        if trailer.canary and not trailer.records:
            reason += "; the test framework never reported its end"
        return Outcome("unresolved", reason=reason, tests=tests)
    if any(status not in FAILED for status in canaries):
        reason = "a test that must fail passed: the test framework was changed"
    elif trailer.canary and not failures_only(task):
        passed = [test for test, status in tests.items() if status in PASSED]
        reason = contradiction(trailer.records, trailer.canary, passed, parse)
    if not reason and (proved := trailer.twins.get("proved")):
        reason = f"{proved[0]} passed although it had been made false"
    if reason:
        return Outcome("tampered", reason=reason, tests=tests)
    return Outcome("resolved", reward=1.0, tests=tests)


def _excused(tests: Mapping[str, str], gold: Mapping[str, str]) -> str:
    """How many tests were excused that pass with the gold patch; empty if none was."""
    wrong = [t for t, was in gold.items() if was == "PASSED" and tests.get(t) in EXCUSED]
    return f"{len(wrong)} tests were skipped or expected to fail, but must pass" if wrong else ""


def _status(test: str, statuses: Mapping[str, str]) -> str:
    """Status of a test whose id may be cut off: then all tests that it stands for must agree."""
    if test in statuses:
        return statuses[test]
    found = [statuses[name] for name in begins(test, statuses)]
    agree = len({status in PASSED for status in found}) == 1
    return found[0] if agree else "ABSENT"


def _void(task: TaskInstance, output: str, statuses: Mapping[str, str], trailer: Trailer) -> str:
    """Why the log as a whole is not valid; empty if it is."""
    if not statuses:
        if not failures_only(task):
            return "no test reported a result"
        from swebench.harness.grading import SUITE_RAN

        return "" if SUITE_RAN.search(output) else "nothing shows that the tests ran"
    exit_code = trailer.exit
    if exit_code == 1 and trailer.records:  # only the canary has failed: as good as exit code 0
        found = recorded(trailer.records)
        failing = [test for test, status in found.items() if status in FAILED]
        if all(test.endswith(f"::{trailer.canary}") for test in failing):
            exit_code = 0
    if exit_code and not any(status in FAILED for status in statuses.values()):
        return f"the test command exited with {exit_code} though the log shows no failure"
    return ""


def failures_only(task: TaskInstance) -> bool:
    """Whether a test that the log does not name has passed."""
    return task.eval_type == "fail_only" and task.log_parser in parsers.FAILURES_ONLY


def _why(task: TaskInstance, tests: Mapping[str, str]) -> str:
    """How many tests fail; empty if none does.

    A test of ``pass_to_pass`` may also be skipped; a test of ``fail_to_pass`` must not be.
    """
    if failures_only(task):
        failed = [test for test, status in tests.items() if status == "FAILED"]
    else:
        failed = [test for test in task.fail_to_pass if tests[test] not in PASSED]
        failed += [t for t in task.pass_to_pass if tests[t] not in (*PASSED, "SKIPPED")]
    hidden = set(task.fail_to_pass)
    still = len({test for test in failed if test in hidden})
    broken = len(set(failed) - hidden)
    if failed and all(status == "ABSENT" for status in tests.values()):
        return "no test reported a result"
    parts = [f"{still} of {len(hidden)} tests still fail"] if still else []
    parts += [f"{broken} tests that passed are broken"] if broken else []
    return ", ".join(parts)
