"""R2E-Gym: commits of a dozen Python repositories, with tests that a model wrote.

A row has no patch, no lists of tests and no command. The image contains ``run_tests.sh`` and the
hidden ``r2e_tests``. The row has the status that each test must have after the fix, including
failures, and grading checks that the statuses are exactly those (``metadata["expected"]``). The
tests are visible in the image until ``setup`` moves them below .git; in the agent's sandbox
``hide`` removes them.

FAIL_TO_PASS are the tests that pass in the recorded run after the commit but not in the one before
it. Without that record it is every test that passes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from swe_gym_env.errors import SetupError
from swe_gym_env.grading.parsers import r2e_gym
from swe_gym_env.tasks import recipe
from swe_gym_env.tasks.check import check
from swe_gym_env.tasks.files import Row, read_rows
from swe_gym_env.tasks.splits import split_tasks
from swe_gym_env.types import TaskInstance

HUB = "R2E-Gym/R2E-Gym-Subset"
KEPT = ".git/swe_gym_tests"
PATH = f"/testbed/.venv/bin:/root/.local/bin:/root/.cargo/bin:{recipe.SYSTEM_PATH}"
SETUP = f"""
mkdir -p {KEPT}
for name in run_tests.sh r2e_tests expected_test_output.json execution_result.json \\
    parsed_commit.json syn_issue.json modified_files.json modified_entities.json; do
  for place in . /root /; do
    if [ -L "$place/$name" ]; then rm -f "$place/$name"; fi
    if [ -e "$place/$name" ]; then
      if [ ! -e "{KEPT}/$name" ]; then cp -a "$place/$name" {KEPT}/; fi
      rm -rf "$place/$name"
    fi
  done
done
if [ ! -d {KEPT}/r2e_tests ] || [ ! -f {KEPT}/run_tests.sh ]; then
  echo "the image lacks r2e_tests or run_tests.sh"; exit 1
fi
{recipe.SNAPSHOT}"""
RESTORE = f"""
rm -rf r2e_tests run_tests.sh
cp -a {KEPT}/r2e_tests {KEPT}/run_tests.sh . || echo '{recipe.RESET_FAILED}'
find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {{}} +
"""


def load(
    path: str = "",
    split: str = "all",
    limit: int | None = None,
    heldout: int = 100,
    seed: int = 0,
    image: str = "",
    search_path: str = PATH,
) -> list[TaskInstance]:
    """Load tasks of R2E-Gym.

    Args:
        path: A file, folder or id on the hub, instead of the published data set.
        split: ``train``, ``heldout`` (``heldout`` tasks, drawn by ``seed``) or ``all``.
        image: An image that replaces those of the rows.
        search_path: PATH in the images; empty keeps that of the image.

    Raises:
        SetupError: The rows cannot be read, or one is wrong.
    """
    rows = list(read_rows(path or HUB, "train"))

    def task(row: Row) -> TaskInstance:
        return check(_task(row, image, search_path), row.where)

    return split_tasks(rows, split, heldout, seed, limit, task, _name)


def _name(row: Row) -> str:
    return f"{row.text('repo_name')}-{row.text('commit_hash')}"


def _task(row: Row, image: str, search_path: str) -> TaskInstance:
    repo, commit = row.text("repo_name"), row.text("commit_hash")
    expected = {_plain(test): status for test, status in _json(row, "expected_output_json").items()}
    before = _before(row)
    passing = [test for test, status in expected.items() if status == "PASSED"]
    issue = row.text("problem_statement")
    inner = re.search(r"\[ISSUE\](.*)\[/ISSUE\]", issue, re.DOTALL)
    return TaskInstance(
        instance_id=_name(row),
        repo=repo,
        base_commit=recipe.BASE,
        image=image or row.text("docker_image"),
        problem_statement=(inner[1] if inner else issue).strip() + "\n",
        gold_patch=_gold(_json(row, "parsed_commit_content")),
        test_patch="",
        fail_to_pass=tuple(test for test in passing if before.get(test) != "PASSED"),
        pass_to_pass=tuple(test for test in passing if before.get(test) == "PASSED"),
        eval_script=recipe.eval_script(RESTORE, "bash run_tests.sh"),
        log_parser="r2e_gym",
        workdir=recipe.WORKDIR,
        env={"PATH": search_path} if search_path else {},
        source="r2e_gym",
        metadata={
            "commit": commit,
            "expected": expected,
            "setup": SETUP,
            "hide": f"rm -rf {KEPT}\n{recipe.ALONE}",
        },
    )


def _json(row: Row, name: str) -> dict[str, Any]:
    value = row.column(name)
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise SetupError(f"{row.where}, column {name!r}: not an object as JSON: {value!r:.80}")
    return found


def _plain(test: str) -> str:
    return re.sub(r"\x1b\[\d+m", "", test).split(" - ")[0]


def _before(row: Row) -> dict[str, str]:
    """Statuses in the recorded run of the tests on the parent of the commit."""
    if not row.get("execution_result_content"):
        return {}
    return r2e_gym(_json(row, "execution_result_content").get("old_commit_res_stdout") or "", ())


def _gold(commit: Mapping[str, Any]) -> str:
    """The changes of the commit to Python files other than tests, as a diff."""
    files = [
        file for file in commit.get("file_diffs", ()) if _counts(file["header"]["file"]["path"])
    ]
    return "".join(line + "\n" for file in files for line in _diff(file))


def _counts(path: str) -> bool:
    *folders, name = path.split("/")
    tests = {"tests", "Tests", "test", "Test"} & set(folders)
    return name.endswith(".py") and not (
        name.startswith("test_") or name.endswith("_test.py") or tests
    )


def _diff(file: Mapping[str, Any]) -> list[str]:
    path = file["header"]["file"]["path"]
    lines = [f"diff --git a/{path} b/{path}"]
    if misc := file["header"].get("misc_line"):
        lines.append(misc)
    if index := file.get("index_line"):
        mode = f" {index['mode']}" if index.get("mode") else ""
        lines.append(f"index {index['old_commit_hash']}..{index['new_commit_hash']}{mode}")
    if file.get("minus_file") and file.get("plus_file"):
        lines += [f"--- {file['minus_file']['path']}", f"+++ {file['plus_file']['path']}"]
    marks = {"context": " ", "added": "+", "deleted": "-", "note": "\\ "}
    for hunk in file.get("hunks") or ():
        ranges = hunk["descriptor"]
        old, new = _range(ranges["old_range"]), _range(ranges["new_range"])
        section = f" {ranges['section']}" if ranges.get("section") else ""
        lines.append(f"@@ -{old} +{new} @@{section}")
        lines += [marks[line["type"]] + line["content"] for line in hunk["line_group"]["all_lines"]]
    return lines


def _range(value: Mapping[str, Any]) -> str:
    length = value.get("length")
    return str(value["start"]) if length is None else f"{value['start']},{length}"
