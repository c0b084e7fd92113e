"""Rows of a task set, from wherever they lie: a file, a folder, or the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from swe_gym_env.errors import SetupError

SUFFIXES = (".jsonl", ".json", ".parquet")


class Row(dict[str, Any]):
    """A row that knows where it stands, for the messages about it."""

    where = ""

    def column(self, name: str) -> Any:
        """Raises SetupError where the row has no such column."""
        try:
            return self[name]
        except KeyError:
            known = ", ".join(sorted(self)) or "none"
            raise SetupError(
                f"{self.where}: row {self.get('instance_id', '?')} has no column {name!r}; it has "
                f"{known}"
            ) from None

    def strings(self, name: str) -> tuple[str, ...]:
        """A column of strings: a list, or a list as JSON text."""
        value = self.column(name)
        try:
            found = json.loads(value) if isinstance(value, str) else list(value)
        except (ValueError, TypeError):
            found = None
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            raise SetupError(f"{self.where}, column {name!r}: not a list of strings: {value!r:.80}")
        return tuple(found)


def read_rows(source: str, split: str = "test") -> list[Row]:
    """The rows of ``source``: a .jsonl, .json or .parquet file, a folder of them, or a hub id.

    ``split`` chooses within a hub data set; in a folder it chooses the files whose name begins
    with it, if there are any, and either way it is the ``split`` of rows that name none.
    Raises SetupError that says what to do.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES)
        named = [p for p in files if p.name.startswith(split)]
        if not files:
            raise SetupError(f"{source} holds no {', '.join(SUFFIXES)} file")
        rows = [row for file in named or files for row in read_file(file)]
        return _marked(rows, split) if named else rows
    if path.is_file():
        return read_file(path)
    if path.suffix in SUFFIXES or source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise SetupError(
            f"no task file at {source!r}: give a file, a folder, or a hub id OWNER/NAME"
        )
    return _from_hub(source, split)


def read_file(path: Path) -> list[Row]:
    """The rows of one file, by its suffix. Raises SetupError."""
    if path.suffix == ".parquet":
        return placed(_parquet(path), f"{path}, row")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SetupError(f"{path} is not UTF-8 at byte {error.start}") from None
    if path.suffix == ".json":
        found = parse_json(text, str(path), 1)
        if not isinstance(found, list):
            raise SetupError(f"{path}: a list of rows is wanted, not {type(found).__name__}")
        return placed(found, f"{path}, row")
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    return [
        _row(parse_json(line, f"{path}, line {number}"), f"{path}, line {number}")
        for number, line in lines
    ]


def parse_json(text: str, where: str, line: int = 0) -> Any:
    """``line``: 0 where ``where`` names the line already. Raises SetupError with the place."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f", line {error.lineno}" if line else ""
        message = f"{where}{place}, column {error.colno} is not JSON: {error.msg}"
        raise SetupError(message) from None


def placed(rows: Iterable[Any], where: str) -> list[Row]:
    """Rows that know their number after ``where``. Raises SetupError for what is no object."""
    return [_row(row, f"{where} {number}") for number, row in enumerate(rows, 1)]


def _marked(rows: list[Row], split: str) -> list[Row]:
    for row in rows:
        row.setdefault("split", split)
    return rows


def _row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise SetupError(f"{where}: an object is wanted, not {type(value).__name__}")
    row = Row(value)
    row.where = where
    return row


def _parquet(path: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise SetupError(f"{path} needs pyarrow: pip install -e '.[hub]'") from None
    try:
        return parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise SetupError(f"{path} cannot be read as parquet: {error}") from None


def _from_hub(name: str, split: str) -> list[Row]:
    try:
        import datasets
    except ImportError:
        raise SetupError(f"{name!r} is on the hub: pip install -e '.[hub]'") from None
    try:
        return _marked(placed(datasets.load_dataset(name, split=split), f"{name}, row"), split)
    except Exception as error:  # the hub's client raises dozens of kinds
        raise SetupError(
            f"cannot load {name!r} (split {split!r}) from the hub: {error}. Where there is no "
            "network, download it elsewhere and give the file or folder as the path."
        ) from error
