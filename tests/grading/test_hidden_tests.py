"""The hidden tests' files are known before they run, and other ones can be put in their place."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swe_gym_env.grading.hidden_tests import HiddenFile, by_patch, by_script, with_files
from swe_gym_env.sandbox import SandboxProvider
from swe_gym_env.sandbox.start import start
from swe_gym_env.types import TaskInstance
from tests.support.attacks import HIDDEN, TREE, eval_script

pytestmark = pytest.mark.sandbox
OLD = "tests/test_calc.py"


def test_files_by_the_patch(suites: dict[str, TaskInstance], sandboxes: SandboxProvider) -> None:
    task = suites["pytest"]
    sandbox = start(sandboxes, task, for_agent=False)
    try:
        before = sandbox.exec("find .git | sort; git status --short", timeout=20).output
        found = by_patch(sandbox, task)
        assert sandbox.exec("find .git | sort; git status --short", timeout=20).output == before
        broken = replace(task, test_patch=task.test_patch.replace("def test_zero", "def test_no"))
        assert by_patch(sandbox, broken) == {}
    finally:
        sandbox.close()
    assert found == {
        name: HiddenFile(TREE[name].encode() if name in TREE else None, text.encode())
        for name, text in HIDDEN.items()
    }


def test_files_by_the_script(suites: dict[str, TaskInstance], sandboxes: SandboxProvider) -> None:
    task = replace(suites["pytest"], test_patch="")
    sandbox = start(sandboxes, task, for_agent=False)
    try:
        found = by_script(sandbox, task, 60)
    finally:
        sandbox.close()
    assert {name: file.content.decode() for name, file in found.items()} == HIDDEN


@pytest.mark.parametrize("ending", ["\n", ""])
def test_the_true_content_is_nowhere_in_a_task_of_twins(
    ending: str, suites: dict[str, TaskInstance], sandboxes: SandboxProvider
) -> None:
    task = suites["pytest"]
    sandbox = start(sandboxes, task, for_agent=False)
    try:
        files = by_patch(sandbox, task)
        new = {
            name: file.content.replace(b"== 3", b"== 4").replace(b"== -3", b"== -5").rstrip()
            + ending.encode()
            for name, file in files.items()
        }
        made = with_files(task, files, new)
        applied = sandbox.exec("git apply -", timeout=20, stdin=made.test_patch.encode())
        assert applied.exit_code == 0, applied.output
        assert {name: sandbox.read(f"{task.workdir}/{name}") for name in new} == new
    finally:
        sandbox.close()
    assert "== 3" not in made.eval_script and "== -3" not in made.eval_script
    assert made.eval_script == eval_script(task.base_commit, made.test_patch.strip("\n") + "\n")
