"""Read the rows of a task set from a file, a folder, or the Hugging Face hub.

Rows are yielded one after the other, so that a caller that needs five rows reads no more. The
format of a file is recognized by its first bytes (gzip, parquet, a byte-order mark), otherwise by
its suffix.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from swe_gym_env.errors import SetupError

SUFFIXES = (".jsonl", ".json", ".parquet", ".jsonl.gz", ".json.gz")
# In a folder of files, a name that begins with one of these is a split
SPLITS = re.compile(r"(train|test|validation|valid|val|dev|heldout|unseen)(?![A-Za-z])")


class Row(dict[str, Any]):
    """A row with its place (file and line), for messages about it."""

    where = ""

    def column(self, name: str) -> Any:
        """A column. Raises SetupError if the row does not have it."""
        try:
            return self[name]
        except KeyError:
            which = f"{self.where}: row {self.get('instance_id', '?')}"
            has = self.other_case(name) or f"it has {', '.join(sorted(self)) or 'none'}"
            raise SetupError(f"{which} has no column {name!r}; {has}") from None

    def other_case(self, name: str) -> str:
        """A hint where the row has the column in upper or lower case instead."""
        found = [other for other in self if other != name and other.lower() == name.lower()]
        return f"it has {found[0]!r}: upper and lower case matter" if found else ""

    def text(self, name: str, default: str | None = None) -> str:
        """A column of text. With a ``default`` it may be missing or empty. Raises SetupError."""
        value = self.column(name) if default is None else self.get(name, default)
        if default is not None and value in (None, ""):
            return default
        if not isinstance(value, str):
            raise SetupError(f"{self.where}, column {name!r}: not a text: {value!r:.80}")
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        """A column with an object; it may be missing or null.

        In parquet all rows of a table have the same keys, with None for missing ones. These are
        left out.
        """
        value = self.get(name)
        if not isinstance(value, Mapping | None):
            raise SetupError(f"{self.where}, column {name!r}: not an object: {value!r:.80}")
        return {key: item for key, item in (value or {}).items() if item is not None}

    def strings(self, name: str) -> tuple[str, ...]:
        """A column of strings: a list, or a list as JSON text."""
        value = self.column(name)
        try:
            found = json.loads(value) if isinstance(value, str) else value
        except ValueError:
            found = None
        if not isinstance(found, list | tuple) or not set(map(type, found)) <= {str}:
            raise SetupError(f"{self.where}, column {name!r}: not a list of strings: {value!r:.80}")
        return tuple(found)

    def changed(self, columns: Mapping[str, Any]) -> Row:
        """The same row with other or more columns."""
        return placed_row({**self, **columns}, self.where)


def read_rows(source: str, split: str = "test") -> Iterator[Row]:
    """Read the rows of a source.

    Args:
        source: A .jsonl, .json or .parquet file (the first two may be gzipped), a folder of them,
            or the id of a data set on the hub.
        split: The split of a data set on the hub. In a folder, the files whose names begin with it,
            if there are any. It also becomes the ``split`` of rows without one. Empty reads all
            files and splits.

    Raises:
        SetupError: The source cannot be read; the message says what to do.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _from_folder(path, split)
    if path.is_file():
        return read_file(path)
    if path.suffix in SUFFIXES or source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise SetupError(
            f"no task file at {source!r}: give a file, a folder, or a hub id OWNER/NAME"
        )
    return _from_hub(source, split)


def _from_folder(folder: Path, split: str) -> Iterator[Row]:
    files = sorted(p for p in folder.rglob("*") if p.name.endswith(SUFFIXES))
    if not files:
        raise SetupError(f"{folder} holds no .jsonl, .json, .parquet file")
    pattern = re.compile(f"({re.escape(split)})(?![A-Za-z])") if split else SPLITS
    named = [path for path in files if pattern.match(path.name)]
    for path in named if split and named else files:
        match = pattern.match(path.name)
        yield from _marked(read_file(path), match[1] if match else "")


def read_file(path: Path) -> Iterator[Row]:
    """The rows of one file. Raises SetupError with the file and the line."""
    with _opened(path) as file:
        if _begins(file, 4) == b"PAR1" or path.suffix == ".parquet":
            yield from placed(_parquet(path), f"{path}, row")
        elif path.name.removesuffix(".gz").endswith(".json"):
            yield from _from_json(file, path)
        else:
            yield from _from_lines(file, path)


def read_json(path: Path) -> Any:
    """The content of a .json file. Raises SetupError with the place of an error."""
    with _opened(path) as file:
        return parse_json("".join(line for _, line in _lines(file, path)), str(path), 1)


def parse_json(text: str, where: str, line: int = 0) -> Any:
    """Parse JSON strictly: no NaN, no duplicate keys.

    Args:
        text: The JSON.
        where: Its place, for messages.
        line: Its line number; 0 if ``where`` contains it.

    Raises:
        SetupError: It is not valid; the message has the place.
    """
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        place = f", line {error.lineno}" if line else ""
        message = f"{where}{place}, column {error.colno} is not JSON: {error.msg}"
        raise SetupError(message) from None
    except (ValueError, RecursionError) as error:
        raise SetupError(f"{where} is not JSON: {error}") from None


def placed(rows: Iterable[Any], where: str) -> Iterator[Row]:
    """Rows with their place: ``where`` and a number. Raises SetupError if one is not an object."""
    return (placed_row(row, f"{where} {number}") for number, row in enumerate(rows, 1))


def placed_row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise SetupError(f"{where}: an object is wanted, not {_kind(value)}")
    row = Row(value)
    row.where = where
    return row


def as_row(value: Mapping[str, Any]) -> Row:
    """A row that was made in Python; its place is its id."""
    if isinstance(value, Row):
        return value
    return placed_row(dict(value), f"row {value.get('instance_id', '?')}")


def unique(rows: Iterable[Row]) -> Iterator[Row]:
    """``rows``, with a check that each ``instance_id`` is a text and unique. Raises SetupError."""
    places: dict[str, str] = {}
    for row in rows:
        name = row.text("instance_id")
        if name in places:
            raise SetupError(f"{row.where}: task {name} stands at {places[name]} already")
        places[name] = row.where
        yield row


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _constant(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON's")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands twice in one object")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def _from_json(file: IO[bytes], path: Path) -> Iterator[Row]:
    """Rows of a .json file: one list, or one object per line, which many such files contain."""
    lines = list(_lines(file, path))
    text = "".join(line for _, line in lines)
    if text.lstrip().startswith("{") and len(lines) > 1:
        try:
            parse_json(lines[0][1], "")
        except SetupError:  # one object that extends over several lines
            pass
        else:
            yield from _rows(lines, path)
            return
    found = parse_json(text, str(path), 1)
    if not isinstance(found, list):
        raise SetupError(f"{path}: a list of rows is wanted, not {_kind(found)}")
    yield from placed(found, f"{path}, row")


def _from_lines(file: IO[bytes], path: Path) -> Iterator[Row]:
    yield from _rows(_lines(file, path), path)


def _rows(lines: Iterable[tuple[int, str]], path: Path) -> Iterator[Row]:
    for number, line in lines:
        if not line.isspace():
            where = f"{path}, line {number}"
            yield placed_row(parse_json(line, where), where)


def _begins(file: IO[bytes], count: int) -> bytes:
    found = file.read(count)
    file.seek(0)
    return found


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The unpacked bytes of a file. All errors while they are read become a SetupError."""
    try:
        with path.open("rb") as raw:
            packed = _begins(raw, 2) == b"\x1f\x8b"
            with gzip.open(raw) if packed else raw as file:
                yield file
    except (OSError, EOFError, zlib.error) as error:
        words = getattr(error, "strerror", None) or error
        raise SetupError(f"{path} cannot be read: {words}") from None


def _lines(file: IO[bytes], path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines. The encoding follows from a byte-order mark, or from the zeros of UTF-16."""
    encoding = json.detect_encoding(_begins(file, 4))
    if encoding.startswith(("utf-16", "utf-32")):
        try:
            file = io.BytesIO(file.read().decode(encoding).encode())
        except UnicodeError as error:
            raise SetupError(f"{path} begins as {encoding}, but is not: {error}") from None
    elif encoding == "utf-8-sig":
        file.seek(3)
    at = file.tell()
    for number, data in enumerate(file, 1):
        try:
            yield number, data.decode()
        except UnicodeDecodeError as error:
            raise SetupError(
                f"{path} is not UTF-8 at byte {at + error.start} (line {number}): save it as UTF-8"
            ) from None
        at += len(data)


def _marked(rows: Iterable[Row], split: str) -> Iterator[Row]:
    for row in rows:
        if split:
            row.setdefault("split", split)
        yield row


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise SetupError(f"{path} needs pyarrow: pip install -e '.[hub]'") from None
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise SetupError(f"{path} cannot be read as parquet: {error}") from None


def _from_hub(name: str, split: str) -> Iterator[Row]:
    try:
        import datasets
    except ImportError:
        raise SetupError(f"{name!r} is on the hub: pip install -e '.[hub]'") from None
    try:
        found = datasets.load_dataset(name, split=split or None)
    except Exception as error:  # the client of the hub raises many kinds of errors
        raise SetupError(
            f"cannot load {name!r} (split {split!r}) from the hub: {error}. Where there is no "
            "network, download it elsewhere and give the file or folder as the path."
        ) from error
    for part, rows in {split: found}.items() if split else found.items():
        yield from _marked(placed(rows, f"{name}, split {part}, row"), part)
