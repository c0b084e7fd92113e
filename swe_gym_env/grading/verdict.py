"""From the log of a graded run to an outcome, by swebench's rules and our guards.

The log is all that is needed, so that it can be kept and judged again. Its last line, the trailer,
is the grader's own: what it saw from outside the sandbox (the exit code, the time limit) and what
the witness reported. The guards only ever turn a resolved into a tampered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from swe_gym_env.errors import GradingError
from swe_gym_env.grading import parsers
from swe_gym_env.grading.recorder import begins, contradiction, statuses
from swe_gym_env.types import Outcome, TaskInstance

TRAILER = ">>>>> Grading"
PASSED = ("PASSED", "XFAIL")  # for a test that must begin to pass
FAILED = ("FAILED", "ERROR")
MOST_NOTES = 5  # in a reason


@dataclass(frozen=True)
class Trailer:
    """``exit``: of the test command. ``canary``: the test that must fail; empty without a witness.
    ``timeout``: in seconds, where the run was cut at it. ``tampered``: why nothing was run.
    ``left_out``: what of the patch was not applied, one sentence each."""

    exit: int | None = None
    timeout: float = 0.0
    tampered: str = ""
    left_out: Sequence[str] = ()
    canary: str = ""
    records: Sequence[Mapping[str, Any]] = field(default_factory=tuple)


def sealed(log: str, word: str, trailer: Trailer) -> str:
    return f"{log}\n{TRAILER} {word} {json.dumps(asdict(trailer))}\n"


def verdict(task: TaskInstance, log: str, nonce: str) -> Outcome:
    """The outcome that a kept log of ``grade`` stands for. Raises GradingError where the log says
    nothing about the patch: it has no trailer, or the tests did not start."""
    text, found, last = log.rpartition(f"\n{TRAILER} {nonce} ")
    if not found:
        raise GradingError("the log has no trailer: it is not one of ours, or was cut")
    trailer = Trailer(**json.loads(last))
    return noted(_said(task, text, nonce, trailer), "left out", trailer.left_out)


def noted(outcome: Outcome, what: str, notes: Sequence[str]) -> Outcome:
    """``outcome`` with remarks in its reason, the first few of them."""
    if not notes:
        return outcome
    few = "; ".join([*notes[:MOST_NOTES], *(["..."] if len(notes) > MOST_NOTES else [])])
    return replace(outcome, reason="; ".join(filter(None, [outcome.reason, f"{what}: {few}"])))


def _said(task: TaskInstance, text: str, nonce: str, trailer: Trailer) -> Outcome:
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
    wanted = (*task.fail_to_pass, *task.pass_to_pass)
    parse = parsers.several(parsers.parser(task.log_parser), len(trailer.records))
    said = parse(output, frozenset(wanted))
    ours = [test for test in said if trailer.canary and test.endswith(f"::{trailer.canary}")]
    canaries = [said.pop(test) for test in ours]
    tests = {test: _status(test, said) for test in wanted}
    reason = _void(task, output, said, trailer)
    expected = task.metadata.get("expected")
    if expected is None:
        reason = reason or _why(task, tests)
    else:  # exactly these statuses, failures that are known included
        tests = {test: said.get(test, "ABSENT") for test in {**expected, **said}}
        unlike = [test for test, status in tests.items() if status != expected.get(test)]
        reason = reason or (f"{len(unlike)} tests say other than they should" if unlike else "")
    if reason:
        if trailer.canary and not trailer.records:
            reason += "; the test framework never reported its end"
        return Outcome("unresolved", reason=reason, tests=tests)
    if any(status not in FAILED for status in canaries):
        reason = "a test that must fail passed: the test framework was changed"
    elif trailer.canary and not _failures_only(task):
        passed = [test for test, status in tests.items() if status in PASSED]
        reason = contradiction(trailer.records, trailer.canary, passed, parse)
    if reason:
        return Outcome("tampered", reason=reason, tests=tests)
    return Outcome("resolved", reward=1.0, tests=tests)


def _status(test: str, said: Mapping[str, str]) -> str:
    if test in said:
        return said[test]
    found = [said[name] for name in begins(test, said)]
    agree = len({status in PASSED for status in found}) == 1
    return found[0] if agree else "ABSENT"


def _void(task: TaskInstance, output: str, said: Mapping[str, str], trailer: Trailer) -> str:
    """Why the log as a whole counts for nothing; empty if it counts."""
    if not said:
        if not _failures_only(task):
            return "no test reported a result"
        from swebench.harness.grading import SUITE_RAN

        return "" if SUITE_RAN.search(output) else "nothing shows that the tests ran"
    exit_code = trailer.exit
    if exit_code == 1 and trailer.records:  # our canary's failure is none of the tests'
        found = statuses(trailer.records)
        failing = [test for test, status in found.items() if status in FAILED]
        if all(test.endswith(f"::{trailer.canary}") for test in failing):
            exit_code = 0
    if exit_code and not any(status in FAILED for status in said.values()):
        return f"the test command exited with {exit_code} though the log shows no failure"
    return ""


def _failures_only(task: TaskInstance) -> bool:
    return task.eval_type == "fail_only" and task.log_parser in parsers.FAILURES_ONLY


def _why(task: TaskInstance, tests: Mapping[str, str]) -> str:
    """What fails; empty if nothing does. A test that passed may be skipped, one of ours may not."""
    if _failures_only(task):
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
