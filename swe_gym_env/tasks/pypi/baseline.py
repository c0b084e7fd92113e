"""Run the test suite of the original package, before any bug is judged by it.

There are three runs with different hash seeds; a test that does not pass in each of them is left
out. One run is traced: it shows which lines are executed, which tests reach a function, and through
how many calls.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from swe_gym_env.errors import SetupError
from swe_gym_env.tasks import trees
from swe_gym_env.tasks.pypi.catalog import Package
from swe_gym_env.tasks.pypi.plan import Function
from swe_gym_env.tasks.pypi.suite import Suite, SuiteRun

BASELINE_RUNS = 3
MAX_SUITE_SECONDS = 60.0


@dataclass(frozen=True)
class Baseline:
    """What the suite of the original package showed.

    Attributes:
        tests: Ids of the tests that passed in every run.
        left_out: Ids of the other tests.
        seconds: Wall-clock time of one run.
        covered: File -> lines that were executed.
        callers: File -> first line of a function -> test (without parameters) -> fewest calls from
            the test to the function. The test ``*`` stands for the import.
        tree_id: git's name of the package's tree.
    """

    tests: tuple[str, ...]
    left_out: tuple[str, ...]
    seconds: float
    covered: Mapping[str, Sequence[int]]
    callers: Mapping[str, Mapping[str, Mapping[str, int]]]
    tree_id: str

    @property
    def timeout(self) -> float:
        """Seconds of processor time that a run with a bug may take."""
        return 1.5 + 4 * self.seconds

    def reaching(self, function: Function) -> list[str]:
        """The tests that enter ``function``; empty if they are most of all tests, or unknown."""
        found: set[str] = set()
        for line, tests in self.callers.get(function.file, {}).items():
            if function.line_start - 5 <= int(line) <= function.line_end:
                found.update(tests)
        everything = {test.split("[")[0] for test in self.tests}
        return [] if "*" in found or len(found) > 0.6 * len(everything) else sorted(found)

    def distance(self, function: Function, tests: Iterable[str]) -> int | None:
        """Fewest calls from one of ``tests`` to ``function``, or to a function inside of it.

        1 is a direct call. None: no test was seen to enter it, so it runs only at import.
        """
        wanted = {test.split("[")[0] for test in tests}
        first = min([function.line_start, *function.decorators])
        found = [
            calls
            for line, callers in self.callers.get(function.file, {}).items()
            if first <= int(line) <= function.line_end
            for test, calls in callers.items()
            if test in wanted
        ]
        return min(found, default=None)

    def save(self, path: Path) -> None:
        aside = path.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps(asdict(self)))
        aside.replace(path)

    @classmethod
    def load(cls, path: Path) -> Baseline:
        data = json.loads(path.read_text())
        return cls(**{**data, "tests": tuple(data["tests"]), "left_out": tuple(data["left_out"])})


def baseline(package: Package, python: Path, tree: Path, scratch: Path) -> Baseline:
    """Run the suite of the original package.

    Args:
        package: The package.
        python: The interpreter of its environment.
        tree: Its source tree.
        scratch: A folder for temporary files.

    Raises:
        SetupError: The suite is too slow or does not pass; the message quotes it.
    """
    runs: list[SuiteRun] = []
    for number in range(BASELINE_RUNS):
        suite = Suite(python, [package.path], hash_seed=number)
        try:
            run = suite.run(tree, package.tests, timeout=MAX_SUITE_SECONDS, trace=number == 1)
            if number == 0 and not run.timeout:
                # The time is measured in a second run, when all modules are in the cache
                run = suite.run(tree, package.tests, timeout=MAX_SUITE_SECONDS)
        finally:
            suite.close()
        if run.timeout:
            raise SetupError(f"{package.name}: its suite takes longer than {MAX_SUITE_SECONDS} s")
        runs.append(run)
    passed = set.intersection(*(run.having("PASSED") for run in runs))
    seen = set.union(*(set(run.statuses) for run in runs))
    failing = set.union(*(run.having("FAILED", "ERROR") for run in runs))
    if not passed or len(failing) > 0.05 * len(seen) or any(r.collect_errors for r in runs):
        words = next((e for r in runs for e in r.collect_errors), ", ".join(sorted(failing)[:5]))
        raise SetupError(
            f"{package.name} {package.version}: its own suite does not pass here "
            f"({len(failing)} of {len(seen)} tests fail), so no bugs can be judged by it. It may "
            f"need packages: build --package {package.name} --with NAME. It said: {words[-600:]}"
        )
    return Baseline(
        tuple(sorted(passed)),
        tuple(sorted(seen - passed)),
        runs[0].seconds,
        runs[1].covered,
        runs[1].callers,
        trees.tree_id(tree, scratch),
    )
