"""The file form of a task: one swebench 5 row, with our ``metadata`` beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swe_gym_env.errors import SetupError
from swe_gym_env.tasks.files import Row
from swe_gym_env.types import TaskInstance

TEXTS = ("instance_id", "repo", "base_commit", "image", "problem_statement", "eval_script")


def from_row(row: Mapping[str, Any], source: str = "") -> TaskInstance:
    """Raises SetupError if a column is missing or of the wrong kind."""
    if not isinstance(row, Row):
        row = Row(row)
    where = row.where or f"row {row.get('instance_id', '?')}"
    row.where = where
    texts = {name: row.column(name) for name in (*TEXTS, "patch", "test_patch")}
    if wrong := [name for name, value in texts.items() if not isinstance(value, str)]:
        raise SetupError(f"{where}, column {wrong[0]!r}: not a text: {texts[wrong[0]]!r:.80}")
    for name in ("env", "metadata"):
        if not isinstance(row.get(name) or {}, Mapping):
            raise SetupError(f"{where}, column {name!r}: not an object: {row[name]!r:.80}")
    return TaskInstance(
        **{name: texts[name] for name in TEXTS},
        gold_patch=texts["patch"],
        test_patch=texts["test_patch"],
        fail_to_pass=row.strings("FAIL_TO_PASS"),
        pass_to_pass=row.strings("PASS_TO_PASS"),
        log_parser=row.get("log_parser") or "pytest",
        eval_type=row.get("eval_type") or "pass_and_fail",
        workdir=row.get("workdir") or "/testbed",
        env=_filled(row.get("env")),
        source=row.get("source") or source,
        split=row.get("split") or "",
        metadata=_filled({"difficulty": row.get("difficulty"), **(row.get("metadata") or {})}),
    )


def _filled(value: Mapping[str, Any] | None) -> dict[str, Any]:
    """Parquet gives every row of a table the same keys, and None for those that a row lacks."""
    return {key: item for key, item in (value or {}).items() if item is not None}


def to_row(task: TaskInstance) -> dict[str, Any]:
    return {
        "instance_id": task.instance_id,
        "repo": task.repo,
        "version": task.metadata.get("version", ""),
        "base_commit": task.base_commit,
        "image": task.image,
        "problem_statement": task.problem_statement,
        "patch": task.gold_patch,
        "test_patch": task.test_patch,
        "FAIL_TO_PASS": list(task.fail_to_pass),
        "PASS_TO_PASS": list(task.pass_to_pass),
        "eval_script": task.eval_script,
        "log_parser": task.log_parser,
        "eval_type": task.eval_type,
        "workdir": task.workdir,
        "env": dict(task.env),
        "source": task.source,
        "split": task.split,
        "metadata": dict(task.metadata),
    }
