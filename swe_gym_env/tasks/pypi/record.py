"""Make the task of a valid bug from the result of trying it: the image and the complete row."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from swe_gym_env.tasks.pypi import instance, statement
from swe_gym_env.tasks.pypi.baseline import Baseline
from swe_gym_env.tasks.pypi.catalog import Package
from swe_gym_env.tasks.pypi.finding import Finding
from swe_gym_env.tasks.pypi.hide import hide
from swe_gym_env.tasks.pypi.plan import Candidate, Group, buggy
from swe_gym_env.tasks.pypi.suite import SuiteRun


def task(
    bug: Candidate | Group,
    finding: Finding,
    package: Package,
    pristine: Path,
    env: Path,
    base: Baseline,
) -> dict[str, Any]:
    """Make the task of a valid bug.

    Args:
        bug: The bug.
        finding: The result of trying it.
        package: Its package.
        pristine: The original tree of the package.
        env: The environment of its tests.
        base: The baseline.

    Returns:
        The row. The image is in the local store.
    """
    changes = buggy(pristine, bug.parts)
    for file, lines in finding.hidden.items():
        changes[file] = hide((pristine / file).read_bytes(), lines)
    row = _row(bug, finding, package, pristine, set(base.tests) - set(finding.fails))
    row = instance.make(package, pristine, changes, env, row, base.tree_id)
    row["metadata"]["difficulty"] = difficulty(bug, row, finding.distance)
    return row


def symptoms(
    package: Package, scratch: Path, run: SuiteRun, failing: Sequence[Collection[str]]
) -> tuple[str, ...]:
    """A text about what goes wrong, for each part of a bug.

    Args:
        package: The package.
        scratch: The tree in which the suite ran; its path is removed from the texts.
        run: The first run of the suite with the bug.
        failing: For each part, the failing tests that are due to it.
    """
    module = Path(package.sources[0]).stem
    roots = [str(scratch.resolve()), str(scratch)]
    texts = []
    for tests in failing:
        failure = statement.best_failure([f for f in run.failures if f["test"] in tests])
        texts.append(statement.symptom(module, failure or _nothing(min(tests)), roots))
    return tuple(texts)


def _row(
    bug: Candidate | Group,
    finding: Finding,
    package: Package,
    pristine: Path,
    passes: Collection[str],
) -> dict[str, Any]:
    parts = []
    for part, text in zip(bug.parts, finding.symptoms, strict=True):
        place = _place(part, bug.parts, (pristine / part.function.file).read_bytes())
        parts.append({**place, "shape": part.function.shape, "symptom": text})
    metadata = {
        "candidate": bug.id,
        "package": package.name,
        "operator": bug.operator,
        **(parts[0] if len(parts) == 1 else {"parts": parts}),
        "test_command": f"python -m pytest -q {' '.join(package.tests)}",
    }
    return {
        "instance_id": f"pypi__{bug.id}",
        "repo": f"pypi/{package.name}",
        "version": package.version,
        "FAIL_TO_PASS": sorted(finding.fails),
        "PASS_TO_PASS": sorted(passes),
        "log_parser": "pytest",
        "eval_type": "pass_and_fail",
        "problem_statement": statement.problem(metadata),
        "split": bug.split,
        "metadata": metadata,
    }


def _place(part: Candidate, parts: Sequence[Candidate], source: bytes) -> dict[str, Any]:
    """Where the agent finds a bug; lines are those of the file with all bugs injected."""
    function, edit = part.function, part.edit
    above = sum(
        _growth(other, source)
        for other in parts
        if other.function.file == function.file and other.edit.start < edit.start
    )
    line = source[: edit.start].count(b"\n") + 1 + above
    return {
        "candidate": part.id,
        "operator": edit.operator,
        "file": function.file,
        "function": function.name,
        "line_start": function.line_start + above,
        "line_end": function.line_end + above + _growth(part, source),
        "lines": [line, line + edit.new.count(b"\n")],
    }


def _growth(part: Candidate, source: bytes) -> int:
    edit = part.edit
    return edit.new.count(b"\n") - source[edit.start : edit.end].count(b"\n")


def _nothing(test: str) -> dict[str, Any]:
    return {"test": test, "statement": test.rsplit("::", 1)[-1], "error": "a failure", "params": {}}


def distance(bug: Candidate | Group, fails: Collection[str], base: Baseline) -> int | None:
    """Fewest calls from one of ``fails`` to the changed function, in a traced run of the suite.

    1 is a direct call. With several bugs, it is the largest of their distances. None if no failing
    test was seen to enter the function, which then runs only at import.
    """
    away = [base.distance(part.function, fails) for part in bug.parts]
    seen = [calls for calls in away if calls is not None]
    return max(seen) if len(seen) == len(away) else None


def difficulty(
    bug: Candidate | Group, row: Mapping[str, Any], distance: int | None
) -> dict[str, Any]:
    """How hard the task may be, for ``metadata["difficulty"]``.

    Returns:
        ``bugs``, ``files`` and ``lines``: how much the gold patch changes; a replaced line counts
        once. ``function_lines``: total length of the functions with bugs. ``failing_tests``: number
        of FAIL_TO_PASS; ``tests``: with PASS_TO_PASS. ``distance``: see :func:`distance`.
    """
    return {
        "bugs": len(bug.parts),
        "files": len({part.function.file for part in bug.parts}),
        "lines": changed_lines(row["patch"]),
        "function_lines": sum(part.function.lines for part in bug.parts),
        "failing_tests": len(row["FAIL_TO_PASS"]),
        "tests": len(row["FAIL_TO_PASS"]) + len(row["PASS_TO_PASS"]),
        "distance": distance,
    }


def changed_lines(patch: str) -> int:
    """Lines that a unified diff adds or removes; a replaced line counts once."""
    body = re.sub(r"^(diff|---|\+\+\+) .*\n", "", patch, flags=re.MULTILINE)
    runs = groupby(body.splitlines(), key=lambda line: line[:1] in ("+", "-"))
    signs = ["".join(line[0] for line in lines) for changed, lines in runs if changed]
    return sum(max(run.count("+"), run.count("-")) for run in signs)
