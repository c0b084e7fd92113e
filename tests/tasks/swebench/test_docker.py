"""Classic rows become rows of swebench 5: all 800 recorded ones, and rows that are complete."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from swe_gym_env import tasks
from swe_gym_env.errors import SetupError
from swe_gym_env.grading import parsers
from swe_gym_env.tasks.rows import to_row
from swe_gym_env.tasks.swebench.docker import complete
from swe_gym_env.tasks.swebench.patches import changes, directives

# One row of each repository: what its test command is given
GIVEN = {
    "astropy__astropy-12907": ["astropy/modeling/tests/test_separable.py"],
    "django__django-10097": [],  # its test patch changes a list of URLs, which is no test
    "django__django-10554": ["queries.test_qs_combinators"],
    "matplotlib__matplotlib-13989": ["lib/matplotlib/tests/test_axes.py"],
    "mwaskom__seaborn-3187": ["tests/_core/test_plot.py", "tests/test_relational.py"],
    "pallets__flask-4045": ["tests/test_basic.py", "tests/test_blueprints.py"],
    "psf__requests-1142": ["test_requests.py"],
    "pydata__xarray-2905": ["xarray/tests/test_variable.py"],
    "pylint-dev__pylint-4551": ["tests/unittest_pyreverse_writer.py"],
    "pytest-dev__pytest-10051": ["testing/logging/test_fixture.py"],
    "scikit-learn__scikit-learn-10297": ["sklearn/linear_model/tests/test_ridge.py"],
    "sphinx-doc__sphinx-10323": ["tests/test_directive_code.py"],
    "sympy__sympy-11618": ["sympy/geometry/tests/test_point.py"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name, count", [("verified", 500), ("lite", 300)])
def test_every_row_becomes_a_task_that_swebench_accepts(
    name: str, count: int, shared_data: Path, tmp_path: Path
) -> None:
    from swebench.harness.utils import make_test_spec

    path = str(shared_data / f"swebench_{name}.jsonl")
    found = tasks.load(f"swebench_{name}", path=path)
    assert len(found) == count and {task.source for task in found} == {f"swebench_{name}"}
    for number, task in enumerate(found):
        spec = make_test_spec(to_row(task))
        assert spec.image.startswith("swebench/sweb.eval.x86_64.") and spec.image.islower()
        assert task.image.endswith(f"{task.instance_id.replace('__', '_1776_')}:latest")
        assert task.env["PATH"].startswith("/opt/miniconda3/envs/testbed/bin:")
        assert task.fail_to_pass and parsers.parser(task.log_parser)
        assert parsers.START in task.eval_script and parsers.END in task.eval_script
        script = task.eval_script.encode("utf-8", "surrogateescape")
        (tmp_path / f"{number}.sh").write_bytes(script)
    check = 'for f in *.sh; do bash -n "$f" || echo "$f"; done 2>&1'
    done = subprocess.run(["bash", "-c", check], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == ""


def test_the_test_command_is_given_the_tests_of_the_test_patch(
    rows: dict[str, dict[str, Any]],
) -> None:
    assert {rows[one]["repo"] for one in GIVEN} == {row["repo"] for row in rows.values()}
    found = {one: directives(rows[one]["repo"], rows[one]["test_patch"]) for one in GIVEN}
    assert found == GIVEN
    script = complete(rows["django__django-10554"])["eval_script"]
    command = "./tests/runtests.py --verbosity 2 --settings=test_sqlite --parallel 1"
    assert f"\n{command} queries.test_qs_combinators </dev/null" in script


def test_patches_are_taken_apart_without_losing_a_byte(rows: dict[str, dict[str, Any]]) -> None:
    for row in rows.values():
        for patch in (row["patch"], row["test_patch"]):
            whole = patch if patch.endswith("\n") else patch + "\n"
            assert "".join(change.text for change in changes(patch)) == whole


def test_a_row_of_swebench_5_keeps_its_own_columns(rows: dict[str, dict[str, Any]]) -> None:
    columns = {
        "image": "mine/image:1",
        "eval_script": "true\n",
        "log_parser": "parse_log_pytest_v2",
        "eval_type": "fail_only",
    }
    done = complete({**rows["sympy__sympy-11618"], "repo": "any/repository", **columns})
    assert {key: done[key] for key in columns} == columns


def test_what_is_not_known_is_named(rows: dict[str, dict[str, Any]], shared_data: Path) -> None:
    row = rows["sympy__sympy-11618"]
    with pytest.raises(SetupError, match="no test command is known for 'a/b'"):
        complete({**row, "repo": "a/b"})
    with pytest.raises(SetupError, match=r"sympy/sympy '0\.1': there are"):
        complete({**row, "version": "0.1"})
    path = str(shared_data / "swebench_lite.jsonl")
    for options, words in (
        ({"build": "podman"}, "docker .* or sdist"),
        ({"split": "val"}, "train, heldout"),
        ({"instances": ["sympy__sympy-0"]}, "no instance sympy__sympy-0 among the 300 rows"),
    ):
        with pytest.raises(SetupError, match=words):
            tasks.load("swebench_lite", path=path, **options)


@pytest.mark.slow
def test_the_parts_for_training_and_for_measuring_share_no_repository(shared_data: Path) -> None:
    path = str(shared_data / "swebench_verified.jsonl")
    parts = {
        split: {task.repo for task in tasks.load("swebench_verified", path=path, split=split)}
        for split in ("train", "heldout", "test")
    }
    assert not parts["train"] & parts["heldout"]
    assert parts["train"] | parts["heldout"] == parts["test"]
