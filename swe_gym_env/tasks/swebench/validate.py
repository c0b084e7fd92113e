"""Check that a rebuilt row behaves as SWE-bench says; by default only such rows are used.

With the gold patch, submitted as an agent would, all its tests must pass; without a patch, all
tests of FAIL_TO_PASS must fail. Each is repeated ``REPEATS`` times in a fresh sandbox, with the
grader that scores agents.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from swe_gym_env.errors import InfraError, SetupError
from swe_gym_env.grading import grade
from swe_gym_env.grading.verdict import PASSED
from swe_gym_env.sandbox.base import SandboxProvider
from swe_gym_env.tasks.rows import from_row
from swe_gym_env.tasks.swebench.rebuild import CannotRebuildError, rebuild
from swe_gym_env.tasks.walk import walk
from swe_gym_env.types import Outcome, TaskInstance

REPEATS = 3
SECONDS = 600.0  # for one test run; rows that take longer are not useful on a small machine


@dataclass(frozen=True)
class Verdict:
    """The result of one repeat. The names of the fields are keys of stored ledgers.

    Attributes:
        instance_id: Id of the row.
        repeat: Number of the repeat, from 0.
        reason: Why the row does not work; empty if it does.
        sdist: The release from which it was rebuilt.
        python: Version of Python.
        packages_as_of: Date of the packages.
        f2p: Passed/all tests of FAIL_TO_PASS with the gold patch.
        p2p: Passed/all tests of PASS_TO_PASS with the gold patch.
        seconds: Time of that test run.
        row: Digest of the row.
    """

    instance_id: str
    repeat: int
    reason: str
    sdist: str = ""
    python: str = ""
    packages_as_of: str = ""
    f2p: str = ""
    p2p: str = ""
    seconds: float = 0.0
    row: str = ""


def _key(row: Mapping[str, Any]) -> str:
    """Digest of a row, so that a corrected row is judged again. Old ledgers do not have it."""
    return hashlib.sha256(json.dumps(dict(row), sort_keys=True).encode()).hexdigest()


def judge(task: TaskInstance, repeat: int, provider: SandboxProvider) -> Verdict:
    """Judge a task once. Raises InfraError if a sandbox failed, so that nothing is known."""
    walked = walk(task, provider)
    if walked.leak or walked.refused:
        reason = walked.leak or f"the gold patch does not apply: {walked.refused}"
        return Verdict(task.instance_id, repeat, reason)
    gold = _graded(task, walked.gold, provider)
    reason = "" if gold.resolved else f"with the gold patch: {gold.reason}"
    if not reason:
        empty = _graded(task, walked.nothing, provider)
        passed = [test for test in task.fail_to_pass if empty.tests.get(test) in PASSED]
        if passed or not empty.tests:
            reason = f"without it {len(passed)} of {len(task.fail_to_pass)} hidden tests pass"
    return Verdict(
        task.instance_id,
        repeat,
        reason,
        task.metadata["release"],
        task.metadata["python"],
        task.metadata["packages_as_of"],
        _share(gold, task.fail_to_pass),
        _share(gold, task.pass_to_pass),
        round(gold.seconds, 1),
    )


def _graded(task: TaskInstance, patch: str, provider: SandboxProvider) -> Outcome:
    outcome = grade(task, patch, provider, timeout=SECONDS, allow_empty=True)
    if outcome.status == "infra_error":
        raise InfraError(outcome.reason)
    return outcome


def _share(outcome: Outcome, tests: tuple[str, ...]) -> str:
    return f"{sum(outcome.tests.get(test) in PASSED for test in tests)}/{len(tests)}"


def validate(
    rows: Iterable[Mapping[str, Any]], provider: SandboxProvider, ledger: Path
) -> Iterator[Verdict]:
    """Judge what ``ledger`` does not hold yet, every row once before any is repeated."""
    rows = list(rows)
    for repeat in range(1, REPEATS + 1):
        for row in rows:
            name, key = row["instance_id"], _key(row)
            known = {(v.instance_id, v.repeat): v for v in read(ledger) if v.row == key}
            past = [known.get((name, n)) for n in range(1, repeat)]
            if (name, repeat) in known or any(v is None or v.reason for v in past):
                continue
            verdict, settled = _verdict(row, repeat, provider)
            verdict = replace(verdict, row=key)
            if settled:
                with ledger.open("a") as out:
                    out.write(json.dumps(asdict(verdict)) + "\n")
            yield verdict


def _verdict(
    row: Mapping[str, Any], repeat: int, provider: SandboxProvider
) -> tuple[Verdict, bool]:
    """And whether it says something about the row, not only about this machine and this hour."""
    try:
        return judge(from_row(rebuild(row)), repeat, provider), True
    except CannotRebuildError as error:
        return Verdict(row["instance_id"], repeat, error.reason), True
    except (InfraError, SetupError) as error:
        return Verdict(row["instance_id"], repeat, f"not known: {str(error)[-400:]}"), False


def read(ledger: Path) -> list[Verdict]:
    if not ledger.exists():
        return []
    lines = ledger.read_text().splitlines()
    return [Verdict(**json.loads(line)) for line in lines if line.endswith("}")]


def behaved(verdicts: Iterable[Verdict]) -> list[dict[str, Any]]:
    """What is known of each row that behaved whenever it was judged: the lines of
    ``validated.jsonl``. ``repeats`` says how often that was. Where a row was corrected, the
    verdicts on the row before count no more."""
    rows: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        same = [v for v in rows.get(verdict.instance_id, ()) if v.row == verdict.row]
        rows[verdict.instance_id] = [*same, verdict]
    return [_facts(rows[name]) for name in sorted(rows) if not any(v.reason for v in rows[name])]


def _facts(verdicts: list[Verdict]) -> dict[str, Any]:
    facts = asdict(verdicts[-1])
    for key in ("repeat", "reason", "row"):
        del facts[key]
    seconds = min(verdict.seconds for verdict in verdicts)
    return {**facts, "seconds": seconds, "repeats": len(verdicts)}
