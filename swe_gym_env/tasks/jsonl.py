"""Tasks from a file of the user, with one row of swebench 5 per line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from swe_gym_env.disk import collection_paused
from swe_gym_env.errors import SetupError
from swe_gym_env.tasks.files import read_rows, unique
from swe_gym_env.tasks.rows import from_row, to_row
from swe_gym_env.types import TaskInstance


@collection_paused()
def load(path: str = "", split: str = "", limit: int | None = None) -> list[TaskInstance]:
    """Load tasks.

    Args:
        path: A .jsonl, .json or .parquet file, a folder of them, or the id of a data set on the
            hub.
        split: Only rows with this value in their column ``split``; all rows if empty or ``all``.
        limit: Number of tasks after which reading stops. Without it all rows are checked, including
            those of other splits.

    Raises:
        SetupError: A row is wrong; the message names the file, the line and the column.
    """
    if not path:
        raise SetupError("no file at path='': give the path of a file of task rows")
    wanted = "" if split == "all" else split
    tasks: list[TaskInstance] = []
    splits: Counter[str] = Counter()
    if limit == 0:
        return tasks
    for row in unique(read_rows(path, wanted)):
        task = from_row(row, "jsonl")
        splits[task.split] += 1
        if wanted in ("", task.split):
            tasks.append(task)
        if len(tasks) == limit:
            break
    if not splits:
        raise SetupError(f"{path} holds no rows")
    if not tasks:
        known = ", ".join(f"{name or 'no split'} ({count})" for name, count in splits.items())
        raise SetupError(f"no row of {path} is in the split {split!r}: there are {known}")
    return tasks


def save(tasks: Iterable[TaskInstance], path: str | Path) -> None:
    Path(path).write_text("".join(json.dumps(to_row(task)) + "\n" for task in tasks))
