"""What a measure is: a table, and a function that gives the rows of one stored run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from experiments.results.tables import Cell, Table
from experiments.runs.reader import StoredRun

Row = Sequence[Cell]


class NotMeasured(Exception):  # noqa: N818 (not an error: the other measures go on)
    """This run lacks what the measure needs; the message says what."""


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes:
        table: Without rows. The columns ``run``, ``algorithm`` and ``seed`` are put before its own;
            if it is drawn by ``series`` (a set of episodes of a run), that column comes last.
        rows: Gives the rows of one run, or raises NotMeasured.
    """

    table: Table
    rows: Callable[[StoredRun], Iterable[Row]]
