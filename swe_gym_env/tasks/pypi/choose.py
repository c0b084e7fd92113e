"""Which tasks make the wanted set: a pure function of the candidates and of their verdicts."""

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
    """Which tasks: how many of each split, how many bugs in each, and from which functions."""

    counts: Mapping[str, int]
    max_function_lines: int | None = None
    operators: tuple[str, ...] = ()
    bugs: tuple[int, ...] = (1,)

    def sizes(self, split: str) -> list[int]:
        """For each task of ``split`` the number of its bugs."""
        return [self.bugs[i % len(self.bugs)] for i in range(self.counts.get(split, 0))]

    def allows(self, candidate: Candidate) -> bool:
        short = self.max_function_lines is None or (
            candidate.function.lines <= self.max_function_lines
        )
        return short and (not self.operators or candidate.edit.operator in self.operators)


def draw_set(
    shops: Sequence[PackageBuilder], wanted: Wanted
) -> list[tuple[PackageBuilder, Candidate | Group]]:
    """The wanted tasks, bugs of unknown verdict among them."""
    dropped = near_duplicates(
        (c.split, c.function.shape) for shop in shops for c in shop.candidates
    )
    chosen: list[tuple[PackageBuilder, Candidate | Group]] = []
    for split in SPLITS:
        sizes = wanted.sizes(split)
        lines = [_line(shop, split, wanted, dropped) for shop in shops] if sizes else []
        turns = {size: _in_turn(shops, lines, size) for size in set(sizes)}
        drawn = [next(turns[size], None) for size in sizes]
        chosen += [one for one in drawn if one is not None]
    return chosen


def _in_turn(
    shops: Sequence[PackageBuilder], lines: Sequence[Sequence[Candidate]], size: int
) -> Iterator[tuple[PackageBuilder, Candidate | Group]]:
    """One of each package, and again, until there are no more."""
    left: list[list[Candidate | Group]] = []
    for shop, line in zip(shops, lines, strict=True):
        several = [] if size == 1 else groups(line, size)
        left.append([*line] if size == 1 else [g for g in several if shop.may_be_valid(g)])
    while any(left):
        for shop, bugs in zip(shops, left, strict=True):
            if bugs:
                yield shop, bugs.pop(0)


def _line(
    shop: PackageBuilder, split: str, wanted: Wanted, dropped: set[tuple[str, str]]
) -> list[Candidate]:
    """A package's candidates for a split that are, or may be, valid."""
    taken: Counter[tuple[str, str, int]] = Counter()
    line = []
    for candidate in shop.candidates:
        if candidate.split != split or (split, candidate.function.shape) in dropped:
            continue
        if (
            shop.may_be_valid(candidate)
            and wanted.allows(candidate)
            and taken[candidate.place] < PER_FUNCTION
        ):
            taken[candidate.place] += 1
            line.append(candidate)
    return line
