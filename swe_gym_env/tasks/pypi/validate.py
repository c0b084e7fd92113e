"""Decide by the package's suite whether a bug makes a task.

Only tests count that passed in all runs of the original package (``baseline.py``). Then:

1. Some of the tests that enter the function with the bug must fail.
2. Without these tests, as the agent sees the repository, the whole suite must pass with the bug.
3. With the hidden tests restored, the same tests must fail again, and the others in the same
   functions must pass.

So every test has run with the bug, and each failing test has failed twice. That the gold patch
fixes the bug needs no run: ``instance.py`` checks that it restores, byte for byte, the tree whose
suite has passed.

A task with several bugs is made of valid ones that are injected together, with further conditions:
each test that fails with one bug alone must fail with all; each bug must have failing tests that no
other bug has; and (4) if any one of them is fixed, its tests must pass while others still fail. So
no bug can be left unfixed without a failing test.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from swe_gym_env.tasks.pypi import record
from swe_gym_env.tasks.pypi.baseline import Baseline
from swe_gym_env.tasks.pypi.catalog import Package
from swe_gym_env.tasks.pypi.edits import parse
from swe_gym_env.tasks.pypi.finding import Finding
from swe_gym_env.tasks.pypi.hide import CannotHideError, hide
from swe_gym_env.tasks.pypi.plan import Candidate, Group, buggy, is_test
from swe_gym_env.tasks.pypi.suite import Suite, SuiteRun

MAX_FAILING_SHARE = 0.3
MAX_FAILING = 40
FAILED = ("FAILED", "ERROR")


class Validator:
    """Tries bugs of one package in a separate scratch tree. Used by one thread at a time.

    Invariant: between two calls of ``try_out`` the scratch tree equals the original tree.
    """

    def __init__(
        self, package: Package, python: Path, pristine: Path, scratch: Path, base: Baseline
    ) -> None:
        self.package, self.pristine = package, pristine
        self.scratch, self.base = scratch, base
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(pristine, scratch)
        self._suite = Suite(python, [package.path])

    def close(self) -> None:
        self._suite.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _run(self, *args: str) -> SuiteRun:
        return self._suite.run(self.scratch, args or self.package.tests, timeout=self.base.timeout)

    def try_out(self, bug: Candidate | Group, alone: Sequence[set[str]] = ()) -> Finding:
        """Try one bug.

        Args:
            bug: The bug, or a group of several.
            alone: For each part of a group, the tests that fail with this part alone.
        """
        changes = buggy(self.pristine, bug.parts)
        try:
            for data in changes.values():
                parse(data)
        except SyntaxError:
            return Finding("syntax")
        try:
            self._write(changes)
            return self._judge(bug, changes, alone)
        except CannotHideError:
            return Finding("unhidable")
        finally:
            self._restore(changes)

    def _write(self, files: Mapping[str, bytes]) -> None:
        for name, data in files.items():
            (self.scratch / name).write_bytes(data)

    def _restore(self, names: Iterable[str]) -> None:
        self._write({name: (self.pristine / name).read_bytes() for name in names})

    def _judge(
        self, bug: Candidate | Group, changes: dict[str, bytes], alone: Sequence[set[str]]
    ) -> Finding:
        limit = max(1, min(MAX_FAILING, int(MAX_FAILING_SHARE * len(self.base.tests))))
        first = self._run(f"--maxfail={limit + 1}", *self._reaching(bug))
        if first.timeout or first.exit not in (0, 1, 2) or first.collect_errors:
            return Finding("timeout" if first.timeout else "broken")
        known = set(self.base.tests)
        fails = known & first.having(*FAILED)
        if not 0 < len(fails) <= limit:
            return Finding("blunt" if fails else "survived")
        exclusive = _exclusive(alone) or [fails]
        if not all(exclusive) or not set().union(*alone) <= fails:
            return Finding("masked")
        hidden = self._hide(first, fails, changes)
        visible = self._run()
        seen = known & visible.having("PASSED")
        unseen = known - seen
        if visible.timeout or visible.collect_errors or not seen:
            return Finding("unstable")
        if visible.having(*FAILED) - set(self.base.left_out):
            return Finding("unhidable")
        if any(tuple(first.places.get(test, ())) not in hidden for test in unseen):
            return Finding("unstable")
        self._restore(name for name in changes if is_test(Path(name)))
        again = self._run(*sorted({test.split("[")[0] for test in unseen}))
        if again.having(*FAILED) & known != fails:
            return Finding("unstable")
        if again.having("PASSED") & unseen != unseen - fails:
            return Finding("unstable")
        if alone and not self._separate(bug.parts, exclusive, fails):
            return Finding("entangled")
        places: dict[str, tuple[int, ...]] = {}
        for file, line in sorted(hidden):
            places[file] = (*places.get(file, ()), line)
        return Finding(
            "valid",
            tuple(sorted(fails)),
            places,
            record.symptoms(self.package, self.scratch, first, exclusive),
            record.distance(bug, fails, self.base),
        )

    def _reaching(self, bug: Candidate | Group) -> list[str]:
        found = [self.base.reaching(part.function) for part in bug.parts]
        return sorted(set().union(*found)) if all(found) else list(self.package.tests)

    def _separate(
        self, parts: Sequence[Candidate], exclusive: Sequence[set[str]], fails: set[str]
    ) -> bool:
        """Whether, with any one part fixed, its exclusive tests pass and others still fail."""
        tests = sorted({test.split("[")[0] for test in fails})
        for fixed, part in enumerate(parts):
            self._restore({one.function.file for one in parts})
            self._write(buggy(self.pristine, [other for other in parts if other is not part]))
            run = self._run(*tests)
            failing = run.having(*FAILED) & fails
            if run.timeout or not failing or exclusive[fixed] & failing:
                return False
        return True

    def _hide(
        self, run: SuiteRun, fails: set[str], changes: dict[str, bytes]
    ) -> set[tuple[str, int]]:
        """Remove the functions of the failing tests from the scratch tree.

        ``changes`` gets the changed test files.

        Returns:
            (file, first line) of the removed functions.

        Raises:
            CannotHideError: A test is not a function of a test file in the tree.
        """
        places = defaultdict(set)
        for test in fails:
            if test not in run.places:
                raise CannotHideError(test)
            file, line = run.places[test]
            if file.startswith("..") or not is_test(Path(file)):
                raise CannotHideError(test)
            places[file].add(line)
        for file, lines in places.items():
            changes[file] = hide((self.pristine / file).read_bytes(), lines)
            (self.scratch / file).write_bytes(changes[file])
        return {(file, line) for file, lines in places.items() for line in lines}


def _exclusive(alone: Sequence[set[str]]) -> list[set[str]]:
    """For each part, the tests that fail with this part alone and with no other part alone."""
    return [tests.difference(*(other for other in alone if other is not tests)) for tests in alone]
