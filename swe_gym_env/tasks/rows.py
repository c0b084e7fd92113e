"""Convert between a task and its form in a file: a row of swebench 5 with additional columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swe_gym_env.errors import SetupError
from swe_gym_env.tasks.check import check
from swe_gym_env.tasks.files import as_row
from swe_gym_env.types import TaskInstance

TEXTS = ("instance_id", "repo", "base_commit", "image", "problem_statement", "eval_script")
OPTIONAL = {
    "log_parser": "pytest",
    "eval_type": "pass_and_fail",
    "workdir": "/testbed",
    "source": "",
    "split": "",
}
KNOWN = {*TEXTS, *OPTIONAL, *("patch", "test_patch", "FAIL_TO_PASS", "PASS_TO_PASS")}
KNOWN |= {"env", "metadata", "difficulty"}


def from_row(row: Mapping[str, Any], source: str = "") -> TaskInstance:
    """The task of a row.

    Args:
        row: Columns of swebench 5, and the optional ones of this project.
        source: Name of the task set, if the row has none.

    Raises:
        SetupError: A column is missing or has an impossible value; the message has the place.
    """
    row = as_row(row)
    for other in row.keys() - KNOWN:  # any others are allowed, but not one of ours misspelled
        if (name := other.lower()) in KNOWN and name not in row:
            raise SetupError(f"{row.where}, column {name!r}: {row.other_case(name)}")
    optional = {name: row.text(name, value) for name, value in OPTIONAL.items()}
    fields: dict[str, Any] = {name: row.text(name) for name in TEXTS}
    task = TaskInstance(
        **fields,
        gold_patch=row.text("patch"),
        test_patch=row.text("test_patch"),
        fail_to_pass=row.strings("FAIL_TO_PASS"),
        pass_to_pass=row.strings("PASS_TO_PASS"),
        env=row.mapping("env"),
        metadata=_filled({"difficulty": row.get("difficulty")}) | row.mapping("metadata"),
        **{**optional, "source": optional["source"] or source},  # type: ignore[arg-type]
    )
    return check(task, row.where)


def _filled(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if item is not None}


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
