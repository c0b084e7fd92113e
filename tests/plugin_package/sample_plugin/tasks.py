"""A task family: rows of a file, with a hint in the problem statement."""

from __future__ import annotations

from dataclasses import replace

from swe_gym_env.tasks import jsonl
from swe_gym_env.types import TaskInstance


def load(
    path: str, split: str = "all", limit: int | None = None, hint: str = ""
) -> list[TaskInstance]:
    tasks = jsonl.load(path, split=split, limit=limit)
    return [replace(t, problem_statement=f"{t.problem_statement}\n{hint}") for t in tasks]
