"""A table of results on the terminal; one wide row is shown as a column."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table as Grid

from experiments.tables import Cell, Table

WIDE = 8  # columns


def show(console: Console, table: Table) -> None:
    columns, rows = _cells(table)
    grid = Grid(
        title=table.title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE,
        show_header=any(columns),
    )
    for number, column in enumerate(columns):
        grid.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*row)
    console.print(grid)
    if table.note:
        console.print(table.note, style="dim")


def _cells(table: Table) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            text(cell, column in table.shares)
            for column, cell in zip(table.columns, row, strict=True)
        ]
        for row in table.rows
    ]
    if len(rows) == 1 and len(table.columns) > WIDE:
        return ["", ""], [list(pair) for pair in zip(table.columns, rows[0], strict=True)]
    return list(table.columns), rows


def text(cell: Cell, share: bool) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.1%}" if share else f"{cell:.3g}" if abs(cell) < 100 else f"{cell:.0f}"
    return str(cell)
