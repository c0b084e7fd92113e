"""Who resolved which task, in one small CSV file: all that rates and differences are computed from.

The runs of a comparison fill a disk and end with the machine. This is what is kept of them, so
that anyone can compute the intervals again and seeds can be added later, elsewhere.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.results.tables import Cell, Table
from swe_gym_env.errors import SetupError

if TYPE_CHECKING:
    from experiments.results.comparison import Group


@dataclass(frozen=True)
class Outcomes:
    """One evaluation of such a file; of its episodes nothing else is known."""

    path: Path
    seed: int
    resolved: dict[str, float]  # the share of each task's samples; NaN: lost to a fault

    @property
    def sampled(self) -> bool:
        return any(0 < share < 1 for share in self.resolved.values())

    @property
    def faults(self) -> int:
        """Tasks of which no episode was without one."""
        return sum(map(math.isnan, self.resolved.values()))


def wanted(task: str, only: tuple[str, ...]) -> bool:
    """Does the id match one of the patterns? All do where there are none."""
    return not only or any(fnmatchcase(task, pattern) for pattern in only)


def table(groups: Sequence[Group]) -> Table:
    """A row for each task, a column NAME/SEED for each evaluation."""
    members = [(group.name, one) for group in groups for one in group.ordered]
    rows: list[list[Cell]] = []
    for task in sorted(set().union(*(one.resolved for _, one in members))):
        shares = (one.resolved.get(task, "") for _, one in members)  # "": does not have the task
        rows.append([task, *(int(s) if s in (0, 1) else s for s in shares)])
    columns = ["task", *(f"{name}/{one.seed}" for name, one in members)]
    return Table("outcomes", "Resolved", columns, rows)


def read(path: Path, only: tuple[str, ...] = ()) -> dict[str, list[Outcomes]]:
    """The evaluations of each method, in the file's order. Raises SetupError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        if header[0] != "task":
            raise ValueError(f"its first column is {header[0]!r}, not 'task'")
        rows = [row for row in rows if wanted(row[0], only)]
        found: dict[str, list[Outcomes]] = {}
        for place, column in enumerate(header[1:], 1):
            name, sign, seed = column.rpartition("/")
            if not sign:
                raise ValueError(f"column {column!r} is not NAME/SEED")
            shares = {row[0]: float(row[place]) for row in rows if row[place] != ""}
            found.setdefault(name, []).append(Outcomes(path, int(seed), shares))
    except (OSError, ValueError, IndexError) as error:
        raise SetupError(f"{path} is not an outcomes.csv of experiments.compare: {error}") from None
    if not rows:
        raise SetupError(f"{path} has no task whose id matches {' or '.join(only) or '*'}")
    return found
