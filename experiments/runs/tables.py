"""Tables of the analysis on disk: a CSV file for each, and all of them in one tables.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.results.tables import Curve, Table
from swe_gym_env.disk import read_json, write_json

FILE = "tables.json"


def write(folder: Path, tables: Sequence[Table]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for table in tables:
        table.write_csv(folder)
    write_json(folder / FILE, [asdict(table) for table in tables])


def add(folder: Path, tables: Sequence[Table]) -> None:
    """As :func:`write`, but the stored tables with other names stay."""
    names = {table.name for table in tables}
    write(folder, [*(table for table in read(folder) if table.name not in names), *tables])


def read(folder: Path) -> list[Table]:
    """An empty list if there is no such file."""
    return [_table(data) for data in read_json(folder / FILE) or []]


def _table(data: dict[str, Any]) -> Table:
    curve = data.pop("curve")
    lists: dict[str, Any] = {name: tuple(data.pop(name)) for name in ("columns", "shares")}
    rows = tuple(tuple(row) for row in data.pop("rows"))
    return Table(**data, **lists, rows=rows, curve=None if curve is None else Curve(**curve))
