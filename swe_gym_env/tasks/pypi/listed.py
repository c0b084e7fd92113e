"""The lists that come with the project: what was found when bugs were tried, for each package.

Finding and validating bugs takes minutes and gives the same each time, so ``validated-3.11.jsonl``
(one file for each minor version of Python) has the verdicts on all bugs that the usual sets draw,
valid or not, in the order in which they are tried, and what is needed to make the tasks again. A
list fits a package only if version, hash, pins and unpacked tree are the recorded ones; before it
is used a sample of it is tried again (``misfit``). ``python -m swe_gym_env.tasks.pypi record``
writes the file of the Python that runs it.
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
RECIPE = 5  # raise it when operators, statements or rows change: it is part of every cache key
SAMPLE = 1  # bugs of a package that are tried again


def path() -> Path:
    """The list of this Python's minor version; it need not exist."""
    return FOLDER / f"validated-{sys.version_info.major}.{sys.version_info.minor}.jsonl"


@dataclass(frozen=True)
class Listed:
    """What a list says of one package. ``base`` lacks the callers, and its ``seconds`` is a limit,
    not a time: another machine's would mean nothing here."""

    base: Baseline
    findings: Mapping[str, Finding]
    digest: str  # of the package's part of the list

    def contradicts(self, base: Baseline) -> str:
        """How a suite that was measured here differs from the list; empty if it does not."""
        for name in ("tree_id", "tests", "left_out", "covered"):
            if _plain(getattr(self.base, name)) != _plain(getattr(base, name)):
                return f"the package's suite has another {name} here"
        return ""


def _plain(value: object) -> object:
    return json.loads(json.dumps(value, sort_keys=True))


def find(package: Package) -> Listed | None:
    """What the list of this Python says of a package, given with version and hash; None if there
    is no list or the package is not in it as it is here."""
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
    """Why a list does not hold here; empty if it does.

    The tree must be the recorded one. A few bugs, always the same ones, are then tried as if
    nothing was known, which runs the whole suite: all must be found again as recorded.
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
            # a run that is not traced does not know the distance, nor has the tree been made
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
    """A package's part of a list; ``bugs`` are in the order of the trials."""
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
    """``1-3,7`` for 1, 2, 3, 7."""
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
