"""A table of results on the terminal; one that is too wide for it is shown on its side, if that is
narrower.

What was measured of nobody has no column here; the CSV file has it.
"""

from __future__ import annotations

from itertools import compress

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from experiments.console.progress import plain
from experiments.results.tables import Cell, Table

PADDING = 3  # characters between two columns


def show(console: Console, table: Table) -> None:
    if not table.rows:
        return
    lines = [[str(column) for column in table.columns], *map(list, _cells(table))]
    measured = [any(row[k] is not None for row in table.rows) for k in range(len(table.columns))]
    lines = [[plain(cell) for cell in compress(line, measured)] for line in lines]
    turned = [list(column) for column in zip(*lines, strict=True)]
    if console.width < _width(lines) > _width(turned):
        lines = turned
    header, *rows = lines
    grid = Grid(
        title=Text(plain(table.title)), title_justify="left", title_style="bold", box=box.SIMPLE
    )
    for number, column in enumerate(header):
        grid.add_column(Text(column), justify="right" if number else "left", overflow="fold")
    for row in rows:
        grid.add_row(*map(Text, row))
    console.print(grid)
    if table.note:
        console.print(plain(table.note), style="dim")


def _width(lines: list[list[str]]) -> int:
    return sum(max(map(len, column)) + PADDING for column in zip(*lines, strict=True))


def _cells(table: Table) -> list[list[str]]:
    shares = [column in table.shares for column in table.columns]
    return [
        [text(cell, share) for cell, share in zip(row, shares, strict=True)] for row in table.rows
    ]


def text(cell: Cell, share: bool) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.1%}" if share else f"{cell:.3g}" if abs(cell) < 100 else f"{cell:.0f}"
    return str(cell)
