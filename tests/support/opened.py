"""Counts which files are read, so that a test sees a second reading that a clock would not show."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_counting: list[tuple[Path, Counter[str]]] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not _counting or not isinstance(arguments[0], str):
        return
    for folder, counter in _counting:
        path = Path(arguments[0])
        if arguments[1] in ("r", "rb") and path.is_relative_to(folder):
            counter[str(path.relative_to(folder))] += 1


sys.addaudithook(_note)


@contextmanager
def opened(folder: Path) -> Iterator[Counter[str]]:
    """How often each file below ``folder`` is opened for reading, by its path in it."""
    counter: Counter[str] = Counter()
    entry = (folder, counter)
    _counting.append(entry)
    try:
        yield counter
    finally:
        _counting.remove(entry)
