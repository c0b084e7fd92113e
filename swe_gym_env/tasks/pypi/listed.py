"""The lists that come with the project: recorded verdicts on the bugs of each package.

Validating bugs takes minutes and always has the same result. Therefore ``validated-3.11.jsonl``
(one file for each minor version of Python) contains the verdicts on all bugs that the usual sets
draw, valid or not, in the order in which they are tried, with all that is needed to make the tasks
again. A list is used only if version, hash, pins and unpacked tree of the package are the recorded
ones, and after a sample of its bugs was tried again with the same result (:func:`misfit`). ``python
-m swe_gym_env.tasks.pypi record`` writes the file for the Python that runs it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swe_gym_env.tasks import trees
from swe_gym_env.tasks.pypi.baseline import MAX_SUITE_SECONDS, Baseline
from swe_gym_env.tasks.pypi.catalog import PYTEST, Package
from swe_gym_env.tasks.pypi.finding import Finding
from swe_gym_env.tasks.pypi.plan import Candidate, draw
from swe_gym_env.tasks.pypi.validate import Validator

FOLDER = Path(__file__).parent
RECIPE = 5  # part of every cache key; increase it when operators, statements or rows change
SAMPLE = 1  # number of bugs of a package that are tried again


def path() -> Path:
    """The list of this Python's minor version; it need not exist."""
    return FOLDER / f"validated-{sys.version_info.major}.{sys.version_info.minor}.jsonl"


@dataclass(frozen=True)
class Listed:
    """The part of a list about one package.

    Attributes:
        base: The baseline without callers. Its ``seconds`` is a limit and not a measured time,
            since a time of another machine would be of no use here.
        findings: Result by id of the bug.
        digest: Digest of this part of the list.
    """

    base: Baseline
    findings: Mapping[str, Finding]
    digest: str

    def contradicts(self, base: Baseline) -> str:
        """How a suite that was measured here differs from the list; empty if it does not."""
        for name in ("tree_id", "tests", "left_out", "covered"):
            if _plain(getattr(self.base, name)) != _plain(getattr(base, name)):
                return f"the package's suite has another {name} here"
        return ""


def _plain(value: object) -> object:
    return json.loads(json.dumps(value, sort_keys=True))


def find(package: Package) -> Listed | None:
    """The part about a package in the list of this Python.

    None if there is no list, or the list has another version or hash of the package.
    """
    if not path().is_file():
        return None
    wanted, found = _plain(_identity(package)), None
    digest = hashlib.sha256()
    findings: dict[str, Finding] = {}
    for line in path().read_text().splitlines():
        entry = json.loads(line)
        if "package" in entry:
            if found is not None:
                break
            found = entry if entry["package"] == wanted else None
        elif found is not None:
            findings[entry["bug"]] = Finding.from_json(entry)
        if found is not None:
            digest.update(line.encode())
    return None if found is None else Listed(_base(found), findings, digest.hexdigest()[:10])


def _identity(package: Package) -> dict[str, Any]:
    return {"recipe": RECIPE, "pytest": PYTEST, **dataclasses.asdict(package)}


def misfit(
    listed: Listed,
    package: Package,
    python: Path,
    tree: Path,
    scratch: Path,
    candidates: Sequence[Candidate],
) -> str:
    """Why a list is not valid on this machine; empty if it is.

    The tree must be the recorded one. Then ``SAMPLE`` bugs, always the same ones, are tried without
    the list, which runs the whole suite, and all must have the recorded result.
    """
    if trees.tree_id(tree, scratch) != listed.base.tree_id:
        return "the unpacked source is another one"
    valid = [one for one in candidates if _valid(listed, one)]
    validator = Validator(package, python, tree, scratch, listed.base)
    try:
        for bug in sorted(valid, key=lambda one: draw("sample", one.id))[:SAMPLE]:
            wanted, found = listed.findings[bug.id], validator.try_out(bug)
            if found.verdict != wanted.verdict:
                return f"{bug.id} is valid there and {found.verdict} here"
            # These two are unknown here: the distance needs a traced run, the commit the task's
            # tree
            if dataclasses.replace(wanted, distance=None, commit="") != found:
                return f"other tests, or other words of theirs, show {bug.id} here"
    finally:
        validator.close()
    return ""


def _valid(listed: Listed, candidate: Candidate) -> bool:
    finding = listed.findings.get(candidate.id)
    return finding is not None and finding.verdict == "valid"


def lines(
    package: Package, base: Baseline, bugs: Iterable[tuple[Candidate, Finding]]
) -> Iterator[str]:
    """The lines of a list about one package; ``bugs`` are in the order in which they were tried."""
    head = {
        "package": _identity(package),
        "python": sys.version.split()[0],
        "tree": base.tree_id,
        "tests": _by_file(base.tests),
        "left_out": _by_file(base.left_out),
        "covered": {file: _ranges(found) for file, found in sorted(base.covered.items())},
    }
    yield json.dumps(head)
    for bug, finding in bugs:
        place = {
            "file": bug.function.file,
            "operator": bug.edit.operator,
            "bytes": [bug.edit.start, bug.edit.end],
            "new": bug.edit.new.decode("utf-8", "backslashreplace"),
        }
        yield json.dumps({"bug": bug.id, **place, **finding.to_json()})


def _base(head: Mapping[str, Any]) -> Baseline:
    return Baseline(
        tests=_joined(head["tests"]),
        left_out=_joined(head["left_out"]),
        seconds=MAX_SUITE_SECONDS / 4,
        covered={file: _numbers(ranges) for file, ranges in head["covered"].items()},
        callers={},
        tree_id=head["tree"],
    )


def _by_file(tests: Collection[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for test in sorted(tests):
        file, _, name = test.partition("::")
        found.setdefault(file, []).append(name)
    return found


def _joined(tests: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    return tuple(sorted(f"{file}::{name}" for file, names in tests.items() for name in names))


def _ranges(numbers: Iterable[int]) -> str:
    """Numbers as text: ``1-3,7`` for 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{a}-{b}" if b > a else str(a) for a, b in runs)


def _numbers(ranges: str) -> list[int]:
    found: list[int] = []
    for part in filter(None, ranges.split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
