"""Task sets of others: rows of their shape become tasks that a real sandbox grades as it should.

The data sets themselves could not be reached where this was written; see ``family_rows``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swe_gym_env import tasks
from swe_gym_env.errors import SetupError
from swe_gym_env.grading import diff, grade
from swe_gym_env.sandbox.start import start
from swe_gym_env.tasks.splits import split_tasks
from swe_gym_env.types import TaskInstance
from tests.support.toy_tasks import real_provider
from tests.tasks import family_rows
from tests.tasks.family_rows import ADD, FIX, WRONG, ZERO

pytestmark = pytest.mark.sandbox

FAMILIES: dict[str, tuple[Callable[[Path], dict[str, Any]], dict[str, str]]] = {
    "swe_gym": (family_rows.swe_gym, {"image": "gym", "prefix": ""}),
    "swe_rebench": (family_rows.swe_rebench, {"image": "rebench", "prefix": ""}),
    "swe_smith": (family_rows.swe_smith, {"image": "smith", "prefix": ""}),
    "r2e_gym": (family_rows.r2e_gym, {"image": "r2e", "search_path": ""}),
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWE_GYM_HOME", str(tmp_path))
    return tmp_path


def load(name: str, row: dict[str, Any], home: Path, **options: Any) -> TaskInstance:
    path = home / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (task,) = tasks.load(name, path=str(path), **options)
    return task


def toy(name: str, home: Path) -> TaskInstance:
    make, options = FAMILIES[name]
    return load(name, make(home), home, **options)


@pytest.mark.parametrize("name", FAMILIES)
def test_gold_resolves_and_nothing_and_wrong_do_not(name: str, home: Path) -> None:
    task, sandboxes = toy(name, home), real_provider("local")
    gold = grade(task, task.gold_patch, sandboxes, timeout=60)
    assert (gold.status, gold.reward) == ("resolved", 1.0), gold.reason
    for patch in ("", WRONG):
        outcome = grade(task, patch, sandboxes, timeout=60, allow_empty=True)
        assert outcome.status == "unresolved" and outcome.tests, outcome.reason
        assert all(outcome.tests[test] == "FAILED" for test in task.fail_to_pass)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_agent_sees_neither_tests_nor_history_and_its_diff_is_gradable(
    name: str, home: Path
) -> None:
    task, sandboxes = toy(name, home), real_provider("local")
    sandbox = start(sandboxes, task)
    try:

        def run(command: str) -> str:
            done = sandbox.exec(command, timeout=60)
            assert done.exit_code == 0, done.output
            return done.output.decode("utf-8", "replace")

        assert run("git log --all --format=%s").split() == ["base"]
        assert run("git status --porcelain") == ""
        assert diff(sandbox, task) == ""
        every = run("git cat-file --batch-all-objects --batch --unordered; grep -r . *.py || true")
        assert "assert add(1, 2) == 3" not in every and "a + b" not in every
        run("ls; test ! -e r2e_tests && test ! -e run_tests.sh && test ! -e .git/swe_gym_tests")
        run(
            "sed -i 's/a - b/a + b/' calc.py; echo 'assert 0' > test_calc.py; "
            "git -c user.name=a -c user.email=a@b commit -qam fix"
        )
        patch = diff(sandbox, task)
    finally:
        sandbox.close()
    assert "+    return a + b" in patch and "test_calc.py" in patch
    outcome = grade(task, patch, sandboxes, timeout=60)
    assert outcome.status == "resolved", outcome.reason


def test_a_setup_that_fails_is_no_verdict_on_the_agent(home: Path) -> None:
    row = family_rows.r2e_gym(home)
    family_rows.store(home, "bare", {"calc.py": family_rows.BAD})
    task = load("r2e_gym", row, home, image="bare", search_path="")
    outcome = grade(task, FIX, real_provider("local"), retries=0)
    assert (outcome.status, outcome.mask) == ("infra_error", True)
    assert "lacks r2e_tests" in outcome.reason


def test_what_swe_gym_rows_lack_is_written(home: Path) -> None:
    task = load("swe_gym", family_rows.swe_gym(home), home)
    assert task.image == "xingyaoww/sweb.eval.x86_64.iterative_s_dvc-1:latest"
    assert task.env["PATH"].startswith("/opt/miniconda3/envs/testbed/bin:")
    assert (task.fail_to_pass, task.pass_to_pass) == ((ADD,), (ZERO,))
    assert "\npytest -rA test_calc.py\n" in task.eval_script
    mypy = {
        **family_rows.swe_gym(home / "mypy"),
        "repo": "python/mypy",
        "instance_id": "python__mypy-10036",
        "test_patch": TEST_DATA,
    }
    command = load("swe_gym", mypy, home).eval_script
    assert '\npytest -n0 -rA -k "testOne or testTwo"\n' in command
    with pytest.raises(SetupError, match=r"rows.jsonl, line 1: no test command.*'a/b'"):
        load("swe_gym", {**mypy, "repo": "a/b"}, home)


TEST_DATA = """diff --git a/test-data/unit/check-x.test b/test-data/unit/check-x.test
--- a/test-data/unit/check-x.test
+++ b/test-data/unit/check-x.test
@@ -1,0 +1,2 @@
+[case testOne]
+[case testTwo]
"""


def test_images_of_the_other_sets(home: Path) -> None:
    smith = family_rows.swe_smith(home)
    image = "jyangballin/swesmith.x86_64.toy_1776_calc.1fd52536"
    assert load("swe_smith", smith, home).image == f"{image}:latest"
    old = {**smith, "image_name": "swesmith.x86_64.toy__calc.1fd52536"}
    assert load("swe_smith", old, home).image == f"{image}:latest"
    rebench = {**family_rows.swe_rebench(home), "docker_image": None, "image_name": None}
    task = load("swe_rebench", rebench, home)
    assert task.image == "swerebench/sweb.eval.x86_64.toy_1776_calc-64:latest"
    assert "export CALC_MODE=strict" in task.eval_script
    task = load("r2e_gym", family_rows.r2e_gym(home), home)
    assert task.image == "namanjain12/calc_final:0123abc"
    assert task.problem_statement == "**Title:** add is wrong\n"
    assert (task.fail_to_pass, task.pass_to_pass) == (("test_add",), ("TestMore.test_six",))
    assert task.gold_patch.count("diff --git") == 1


def test_swe_smith_leaves_out_what_pytest_does_not_run(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row = family_rows.swe_smith(home)
    other = {**row, "instance_id": "tornadoweb__tornado.d5ac65c1.lm__1"}
    path = home / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps(other) + "\n")
    with caplog.at_level("INFO"):
        found = tasks.load("swe_smith", path=str(path))
    assert [task.instance_id for task in found] == [row["instance_id"]]
    assert "1 of 2 rows are left out" in caplog.text


def synthetic(count: int) -> list[TaskInstance]:
    empty = dict.fromkeys(("repo", "base_commit", "image", "problem_statement"), "")
    more = {"gold_patch": "", "test_patch": "", "eval_script": ""}
    lists: dict[str, Any] = {"fail_to_pass": (), "pass_to_pass": ()}
    return [TaskInstance(f"o__r-{n}", **empty, **more, **lists) for n in range(count)]


def test_the_papers_split_is_the_same_every_time() -> None:
    everything = synthetic(2438)
    train = {t.instance_id for t in split_tasks(everything, "train", 100, 0, None)}
    held = [t.instance_id for t in split_tasks(everything, "heldout", 100, 0, None)]
    assert (len(train), len(held)) == (2338, 100) and not train & set(held)
    again = split_tasks(everything[::-1], "heldout", 100, 0, None)
    assert {t.instance_id for t in again} == set(held)
    assert {t.split for t in again} == {"heldout"}
    other = {t.instance_id for t in split_tasks(everything, "heldout", 100, 1, None)}
    assert 0 < len(other & set(held)) + 1 < 20
    assert len(split_tasks(everything, "all", 100, 0, 7)) == 7


def test_bad_splits_are_named() -> None:
    with pytest.raises(SetupError, match="unknown split 'test': there are train, heldout, all"):
        split_tasks(synthetic(3), "test", 1, 0, None)
    with pytest.raises(SetupError, match="heldout=100 leaves nothing of 3 tasks"):
        split_tasks(synthetic(3), "train", 100, 0, None)
    with pytest.raises(SetupError, match="o__r-1 comes more than once"):
        split_tasks([*synthetic(2), synthetic(2)[1]], "all", 1, 0, None)
