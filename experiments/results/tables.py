"""A table of results as data: what the terminal, a page, a CSV file and a plot all show.

Measures produce tables (``experiments/analysis``); what shows a table only renders it.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swe_gym_env.disk import room_for

Cell = str | int | float | None


@dataclass(frozen=True)
class Curve:
    """How a table is drawn: column ``y`` over column ``x``, a line for each value of ``by``, with
    an interval from column ``low`` to ``high`` where they are given. ``percent``: y is a share."""

    x: str
    y: str
    by: str | None = None
    low: str | None = None
    high: str | None = None
    percent: bool = False


@dataclass(frozen=True)
class Table:
    """``name`` is its file's, ``title`` and ``note`` say in words what was measured and in which
    unit. Shares are numbers in [0, 1] in columns that ``shares`` names. None: not measured."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    shares: Sequence[str] = ()
    curve: Curve | None = None

    def write_csv(self, folder: Path) -> Path:
        """``name``.csv in ``folder``; an unmeasured cell is empty."""
        path = folder / f"{self.name}.csv"
        with room_for(path), path.open("w", newline="", encoding="utf-8", errors="replace") as file:
            writer = csv.writer(file)
            writer.writerow(self.columns)
            writer.writerows(self.rows)
        return path
