"""Choose the tasks of a set: a pure function of the candidates and of their verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from swe_gym_env.tasks.pypi.package_builder import PackageBuilder
from swe_gym_env.tasks.pypi.plan import Candidate, Group, groups
from swe_gym_env.tasks.pypi.splits import SPLITS, near_duplicates

PER_FUNCTION = 5


@dataclass(frozen=True)
class Wanted:
    """Which tasks a set has.

    Attributes:
        counts: Number of tasks by split.
        max_function_lines: Longest function that may have a bug; None for any length.
        operators: Names of the operators that may make bugs; empty for all.
        bugs: How many bugs a task has, in turn.
    """

    counts: Mapping[str, int]
    max_function_lines: int | None = None
    operators: tuple[str, ...] = ()
    bugs: tuple[int, ...] = (1,)

    def sizes(self, split: str) -> list[int]:
        """The number of bugs of each task of ``split``."""
        return [self.bugs[i % len(self.bugs)] for i in range(self.counts.get(split, 0))]

    def allows(self, candidate: Candidate) -> bool:
        """Whether the set may contain ``candidate``."""
        short = self.max_function_lines is None or (
            candidate.function.lines <= self.max_function_lines
        )
        return short and (not self.operators or candidate.edit.operator in self.operators)


def draw_set(
    builders: Sequence[PackageBuilder], wanted: Wanted
) -> list[tuple[PackageBuilder, Candidate | Group]]:
    """The tasks of the set. A bug whose verdict is not known yet counts as valid."""
    dropped = near_duplicates(
        (c.split, c.function.shape) for builder in builders for c in builder.candidates
    )
    chosen: list[tuple[PackageBuilder, Candidate | Group]] = []
    for split in SPLITS:
        sizes = wanted.sizes(split)
        lines = [_line(builder, split, wanted, dropped) for builder in builders] if sizes else []
        turns = {size: _in_turn(builders, lines, size) for size in set(sizes)}
        drawn = [next(turns[size], None) for size in sizes]
        chosen += [one for one in drawn if one is not None]
    return chosen


def _in_turn(
    builders: Sequence[PackageBuilder], lines: Sequence[Sequence[Candidate]], size: int
) -> Iterator[tuple[PackageBuilder, Candidate | Group]]:
    """Bugs, or groups of ``size`` bugs, from all packages in turn, until none is left."""
    left: list[list[Candidate | Group]] = []
    for builder, line in zip(builders, lines, strict=True):
        several = [] if size == 1 else groups(line, size)
        left.append([*line] if size == 1 else [g for g in several if builder.may_be_valid(g)])
    while any(left):
        for builder, bugs in zip(builders, left, strict=True):
            if bugs:
                yield builder, bugs.pop(0)


def _line(
    builder: PackageBuilder, split: str, wanted: Wanted, dropped: set[tuple[str, str]]
) -> list[Candidate]:
    """The candidates of a package for a split that are valid or may be."""
    taken: Counter[tuple[str, str, int]] = Counter()
    line = []
    for candidate in builder.candidates:
        if candidate.split != split or (split, candidate.function.shape) in dropped:
            continue
        if (
            builder.may_be_valid(candidate)
            and wanted.allows(candidate)
            and taken[candidate.place] < PER_FUNCTION
        ):
            taken[candidate.place] += 1
            line.append(candidate)
    return line
