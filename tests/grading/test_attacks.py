"""Every attack scores 0 and says why; honest work under the same guards does not."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from swe_gym_env.grading import grade, verdict
from swe_gym_env.grading.verdict import opened
from swe_gym_env.sandbox import SandboxProvider
from swe_gym_env.tasks.pypi import fetch
from swe_gym_env.tasks.pypi.catalog import PYTEST
from swe_gym_env.types import TaskInstance
from tests.support.attacks import (
    ATTACKS,
    CODE,
    FAKE_TESTS,
    FIXED,
    Attack,
    make_task,
    new,
    slug,
)
from tests.tasks.tiny import own_store

pytestmark = pytest.mark.sandbox


@pytest.fixture(scope="module")
def task(suites: dict[str, TaskInstance]) -> TaskInstance:
    return suites["pytest"]


def test_there_are_enough_and_all_differ() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 120


@pytest.mark.sampled(8)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: slug(a.name))
def test_an_attack_scores_nothing(
    attack: Attack, suites: dict[str, TaskInstance], sandboxes: SandboxProvider
) -> None:
    task = suites[attack.suite]
    timeout = 3 if attack.status == "timeout" else 60
    outcome = grade(task, attack.run(task, sandboxes), sandboxes, timeout=timeout)
    assert outcome.reward == 0 and not outcome.mask, outcome
    assert outcome.status in attack.status.split("|"), outcome
    assert outcome.reason and re.search(attack.reason, outcome.reason), outcome.reason


HONEST = {
    "the fix": Attack("", files={CODE: FIXED}),
    "the fix and tests": Attack("", files={CODE: FIXED, **FAKE_TESTS, "tests/test_mine.py": "x\n"}),
    "the fix and configuration": Attack(
        "",
        files={
            CODE: FIXED,
            "conftest.py": "import sys\n",
            "setup.cfg": "[tool:pytest]\naddopts = -x\n",
            "pytest.ini": "[pytest]\naddopts = --no-such-option\n",
            "test.py": "print('reproduced')\n",
            "link": "",
        },
        shell="ln -sf calc link",
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_work_resolves(name: str, task: TaskInstance, sandboxes: SandboxProvider) -> None:
    logs: list[tuple[str, str]] = []
    outcome = grade(
        task, HONEST[name].run(task, sandboxes), sandboxes, on_log=lambda *log: logs.append(log)
    )
    assert (outcome.status, outcome.reward) == ("resolved", 1.0), outcome.reason
    (log,) = logs
    assert verdict(task, *log).tests == outcome.tests


@pytest.mark.parametrize("suite", ["unittest", "installed", "helped"])
def test_gold_resolves_in_every_suite_and_nothing_does_not(
    suite: str, suites: dict[str, TaskInstance], sandboxes: SandboxProvider
) -> None:
    task = suites[suite]
    logs: list[tuple[str, str]] = []
    found = grade(task, task.gold_patch + "\n", sandboxes, on_log=lambda *log: logs.append(log))
    assert found.status == "resolved", found.reason
    twins = opened(*logs[0])[1].twins
    assert twins == {"made": sorted(task.fail_to_pass), "passed": [], "proved": []}
    assert grade(task, "", sandboxes, allow_empty=True).status == "unresolved"


def test_the_tests_fail_on_no_change(task: TaskInstance, sandboxes: SandboxProvider) -> None:
    outcome = grade(task, "", sandboxes, allow_empty=True)
    assert outcome.status == "unresolved" and outcome.reason == "2 of 2 tests still fail"


def test_the_gold_patch_may_change_what_others_may_not(
    task: TaskInstance, sandboxes: SandboxProvider
) -> None:
    gold = task.gold_patch + new("sitecustomize.py", "x = 1\n")
    assert grade(task, gold, sandboxes).status == "tampered"
    assert grade(replace(task, gold_patch=gold), gold, sandboxes).status == "resolved"


@pytest.mark.network
def test_an_image_that_is_not_quite_its_base_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sandboxes: SandboxProvider
) -> None:
    """Builders pin a version or leave a file: that is in the agent's diff, and not in its way."""
    env = fetch.environment_for("tiny", PYTEST)
    home = own_store(tmp_path)
    monkeypatch.setenv("SWE_GYM_HOME", str(home))
    task = make_task(home, str(env))
    tree = home / "images" / "attacked" / "tree"
    note = "# pinned for the image\n"
    (tree / CODE).write_text((tree / CODE).read_text() + note)
    (tree / "left.txt").write_text("left by the builder\n")
    patch = Attack("", files={CODE: FIXED + note}).run(task, sandboxes)
    assert "left.txt" in patch and "pinned" in patch
    assert grade(task, patch, sandboxes).status == "resolved"
    assert grade(task, task.gold_patch, sandboxes).status == "resolved"


def test_tests_that_no_patch_names_are_guarded_by_their_ids(
    task: TaskInstance, sandboxes: SandboxProvider
) -> None:
    """As in task sets whose hidden tests are in the repository from the start."""
    plain = replace(
        task,
        test_patch="",
        fail_to_pass=(),
        eval_script="python -m pytest -rA -p no:cacheprovider tests",
        pass_to_pass=task.pass_to_pass,
    )
    broken = FIXED.replace("a + b", "a + b + 1")
    edited = Attack("", files={CODE: broken, **FAKE_TESTS}).run(task, sandboxes)
    assert grade(plain, edited, sandboxes).status == "unresolved"
    rewriting = "\nwith open('tests/test_calc.py', 'w') as f: f.write('def test_zero(): 1')\n"
    rewritten = Attack("", files={CODE: broken + rewriting}).run(task, sandboxes)
    outcome = grade(plain, rewritten, sandboxes)
    assert outcome.status == "tampered" and "was changed" in outcome.reason
    assert grade(plain, task.gold_patch, sandboxes).status == "resolved"
