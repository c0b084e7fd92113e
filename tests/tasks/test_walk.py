"""Tasks that only an agent's sandbox shows to be wrong, walked through in a real one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swe_gym_env.commands.validate import validate
from swe_gym_env.sandbox import images
from swe_gym_env.types import TaskInstance
from tests.support.toy_tasks import GOLD, real_provider, toy_task

pytestmark = pytest.mark.sandbox

TEST_PATCH = """diff --git a/test_calc.py b/test_calc.py
--- a/test_calc.py
+++ b/test_calc.py
@@ -1,5 +1,6 @@
 from calc import add
 
 
+# hidden
 def test_add():
     assert add(1, 2) == 3
"""
NEW = """diff --git a/out/new.py b/out/new.py
new file mode 100644
--- /dev/null
+++ b/out/new.py
@@ -0,0 +1 @@
+x = 1
"""


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TaskInstance:
    monkeypatch.setenv("SWE_GYM_HOME", str(tmp_path))
    return replace(toy_task(tmp_path), gold_patch=GOLD)


def in_tree(task: TaskInstance, script: str) -> str:
    tree = images.path_of(task.image) / "tree"
    identity = "git config user.name t; git config user.email t@example.org;"
    done = subprocess.run(
        ["bash", "-ec", identity + script], cwd=tree, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def judged(task: TaskInstance) -> tuple[str, str]:
    result = validate(task, real_provider("local"), repeats=1, timeout=60)
    return result["verdict"], result["reason"]


def test_a_good_task_is_valid(task: TaskInstance) -> None:
    assert judged(task) == ("valid", "")


def committed(task: TaskInstance, script: str) -> TaskInstance:
    in_tree(task, f"{script}; git add -A; git commit -qm more")
    return replace(task, base_commit=in_tree(task, "git rev-parse HEAD"))


def ignored(task: TaskInstance) -> TaskInstance:
    """The new file of the gold patch lies where git does not look, and the tests need it."""
    task = committed(task, "echo out/ > .gitignore")
    script = "cd /testbed && test -f out/new.py && python -m pytest -rA test_calc.py"
    return replace(task, gold_patch=GOLD + NEW, eval_script=script)


def mixed(task: TaskInstance) -> TaskInstance:
    return replace(task, gold_patch=GOLD.replace("a - b", "a ~ b"))


def fixed_already(task: TaskInstance) -> TaskInstance:
    return committed(task, "sed -i 's/a - b/a + b/' calc.py")


def shown(task: TaskInstance) -> TaskInstance:
    task = committed(task, "sed -i 's/^def test_add/# hidden\\n&/' test_calc.py")
    return replace(task, test_patch=TEST_PATCH)


def later(task: TaskInstance) -> TaskInstance:
    """The row's own ``hide`` leaves the fix on a branch."""
    in_tree(task, "git checkout -qb fix; sed -i 's/a - b/a + b/' calc.py; git commit -qam fix")
    in_tree(task, "git checkout -q main")
    return replace(task, metadata={"hide": "true"})


def unstarted(task: TaskInstance) -> TaskInstance:
    return replace(
        task, eval_script="cd /nowhere || exit 1\necho '>>>>> Start Test Output'\npytest"
    )


@pytest.mark.parametrize(
    ("change", "verdict", "reason"),
    [
        (ignored, "gold_fails", "out/new.py is not in its diff"),
        (mixed, "gold_fails", "not applied in the agent's sandbox"),
        (lambda t: replace(t, gold_patch=""), "gold_fails", "the row has no gold patch"),
        (fixed_already, "leaks", "the fix is in the tree already"),
        (shown, "leaks", "the hidden tests are in the tree already"),
        (later, "leaks", "the history holds more"),
        (unstarted, "setup_error", "the tests did not start"),
        (lambda t: replace(t, image="nowhere"), "setup_error", "no image 'nowhere'"),
    ],
)
def test_faults_that_an_agent_would_meet_are_reported(
    task: TaskInstance, change: Callable[[TaskInstance], TaskInstance], verdict: str, reason: str
) -> None:
    found, why = judged(change(task))
    assert found == verdict and reason in why, (found, why)


@pytest.mark.parametrize("wrong", ["a" * 40, "0123456"])
def test_a_commit_that_is_not_there_is_never_valid(task: TaskInstance, wrong: str) -> None:
    found, why = judged(replace(task, base_commit=wrong))
    assert found in ("setup_error", "gold_fails"), why


def test_a_tree_that_is_not_quite_the_base_commit_is_valid_and_said(task: TaskInstance) -> None:
    in_tree(task, "echo '# pinned' >> calc.py; echo left > left.txt")
    result: dict[str, Any] = validate(task, real_provider("local"), repeats=1, timeout=60)
    assert result["verdict"] == "valid", result["reason"]
    assert result["differs_from_base"] == ["calc.py", "left.txt"]
