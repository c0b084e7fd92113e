"""Tasks from a file that somebody wrote: one swebench 5 row a line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from swe_gym_env.errors import SetupError
from swe_gym_env.tasks.rows import from_row, to_row
from swe_gym_env.types import TaskInstance


def load(path: str = "", split: str = "", limit: int | None = None) -> list[TaskInstance]:
    if not path or not Path(path).is_file():
        raise SetupError(f"no file at path={path!r}: give the path of a file of task rows")
    tasks = []
    for number, line in enumerate(Path(path).read_text().splitlines(), 1):
        if line.strip():
            try:
                tasks.append(from_row(json.loads(line), "jsonl"))
            except ValueError as error:
                raise SetupError(f"{path}, line {number} is not JSON: {error}") from None
    return [task for task in tasks if split in ("", "all", task.split)][:limit]


def save(tasks: Iterable[TaskInstance], path: str | Path) -> None:
    Path(path).write_text("".join(json.dumps(to_row(task)) + "\n" for task in tasks))
