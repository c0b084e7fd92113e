"""What the environment asks of its sandboxes, counted: no clock is needed to see that it grew."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

from swe_gym_env.env import SWEEnv
from swe_gym_env.grading import grade
from swe_gym_env.sandbox.base import Sandbox, SandboxProvider, SandboxSpec
from swe_gym_env.types import TaskInstance
from tests.support.toy_tasks import GOLD, real_provider, toy_task

pytestmark = pytest.mark.sandbox

# Three commands (apply the patch, list the base commit, run the tests), two files written (the
# patch and the test recorder), one read (what the recorder saw)
GRADING = {"create": 1, "write": 2, "exec": 3, "read": 1, "close": 1}
# What is resolved is graded again with twins of the tests. This task has no test patch, so a third
# sandbox says what its test files are: one command, one file read
RESOLVED = {"create": 3, "write": 4, "exec": 7, "read": 3, "close": 3}
BEFORE_TESTS = 13  # id of the first process of the task's script: 12 were started before it


class Counting:
    """A real provider that counts the requests to its sandboxes."""

    name = "counting"

    def __init__(self, inner: SandboxProvider) -> None:
        self.inner = inner
        self.count: Counter[str] = Counter()

    def unavailable(self) -> str | None:
        return self.inner.unavailable()

    def create(self, spec: SandboxSpec) -> Sandbox:
        self.count["create"] += 1
        return CountingSandbox(self.inner.create(spec), self.count)  # type: ignore[return-value]

    def taken(self) -> dict[str, int]:
        """The requests since the last call."""
        found = dict(self.count)
        self.count.clear()
        return found


class CountingSandbox:
    def __init__(self, inner: Sandbox, count: Counter[str]) -> None:
        self._inner, self._count = inner, count
        self.guarantees = inner.guarantees

    def __getattr__(self, name: str) -> object:
        self._count[name] += 1
        return getattr(self._inner, name)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaskInstance]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWE_GYM_HOME", str(home))
        yield toy_task(home)


@pytest.fixture
def local() -> Counting:
    return Counting(real_provider("local"))


def test_requests_of_a_reset_and_of_a_step(task: TaskInstance, local: Counting) -> None:
    env = SWEEnv([task], sandbox=local, grade="never", max_turns=100, max_repeats=100)
    env.reset()
    env.close()
    first = local.taken()  # also looks up the base commit and later history of the image
    assert first["create"] == 1 and first["close"] == 1
    env.reset()
    assert local.taken() == {"create": 1}
    for _ in range(20):
        env.step("```bash\necho hi\n```")
        assert local.taken() == {"exec": 1}
    env.close()
    assert local.taken() == {"close": 1}


def test_a_step_starts_one_process_however_many_came_before(
    task: TaskInstance, local: Counting
) -> None:
    """A sandbox counts its processes: their ids are those of its namespace."""
    env = SWEEnv([task], sandbox=local, grade="never", max_turns=100, max_repeats=100)
    env.reset()
    seen = [int(str(env.step("```bash\necho $$\n```")[0]).split()[0]) for _ in range(20)]
    env.close()
    assert {b - a for a, b in pairwise(seen)} == {1}


def test_requests_and_processes_of_a_grading(task: TaskInstance, local: Counting) -> None:
    logs: list[str] = []
    grade(task, GOLD, local)  # looks up the base commit, once for each image and process
    local.taken()
    for _ in range(2):
        outcome = grade(task, GOLD, local, on_log=lambda log, _: logs.append(log))
        assert outcome.status == "resolved", outcome.reason
        assert local.taken() == RESOLVED
        assert grade(task, GOLD, local, counterfactual=False).resolved
        assert local.taken() == GRADING
    asked = replace(task, eval_script="echo pid=$$")
    grade(asked, GOLD, local, on_log=lambda log, _: logs.append(log))
    found = re.search(r"pid=(\d+)", logs[-1])
    assert found and int(found[1]) <= BEFORE_TESTS
