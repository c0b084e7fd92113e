"""An agent finds nothing in the repository from after the task's commit."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from swe_gym_env.env import SWEEnv
from swe_gym_env.sandbox import Sandbox, SandboxSpec
from swe_gym_env.sandbox.history import scrub
from swe_gym_env.types import TaskInstance
from tests.support.toy_tasks import FlakySandbox, real_provider, toy_task

pytestmark = pytest.mark.sandbox

GIT = "git -c user.name=toy -c user.email=toy@example.org"
FUTURE = rf"""
set -e
base=$(git rev-parse HEAD)
git checkout -q -b old HEAD && git tag -a v1 -m v1 HEAD
echo 'the FIX is here' > calc.py && {GIT} commit -qam 'the FIX'
{GIT} tag -a v2 -m 'later FIX' && git tag v2-light && git branch later
git checkout -q main
echo 'dangling FIX' > dangling && git hash-object -w dangling >/dev/null && rm dangling
echo 'stashed FIX' >> calc.py && {GIT} stash -q
git clone -q . ../upstream && git remote add origin ../upstream && git fetch -q origin
git branch -q -D old && git gc -q && touch .git/objects/pack/$(ls .git/objects/pack | head -1 \
  | sed 's/[.].*//').keep
git checkout -q later && echo 'env' > env.txt && git add -A && {GIT} commit -qm 'environment'
git checkout -q -B main later && git checkout -q $base calc.py
git replace $base later
"""


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TaskInstance:
    monkeypatch.setenv("SWE_GYM_HOME", str(tmp_path))
    return toy_task(tmp_path, "future")


class Counting(FlakySandbox):
    """A real sandbox that counts its commands."""

    def __init__(self, inner: Sandbox) -> None:
        super().__init__(inner, 1 << 30)

    @property
    def commands(self) -> int:
        return (1 << 30) - self.left


def in_tree(home: Path, script: str) -> None:
    tree = home / "images" / "future" / "tree"
    script = f"git config user.name a; git config user.email a@b\n{script}"
    subprocess.run(["bash", "-c", script], cwd=tree, check=True)


def test_nothing_after_the_base_commit_is_left(tmp_path: Path, task: TaskInstance) -> None:
    in_tree(tmp_path, FUTURE)
    with_env = SWEEnv([task], sandbox=real_provider("local"))
    with_env.reset(seed=0)
    sandbox = with_env.sandbox
    assert sandbox is not None

    def output(command: str) -> str:
        return sandbox.exec(command, timeout=60).output.decode()

    assert output("git log --all --format=%H").split() == [task.base_commit]
    assert output("git fsck --lost-found --no-progress 2>&1") == ""
    assert output("git remote; git reflog; git stash list; cat .git/FETCH_HEAD 2>/dev/null") == ""
    assert output("git tag; git branch --format='%(refname:short)'").split() == ["v1", "main"]
    every = "git cat-file --batch-all-objects --batch-check='%(objectname)'"
    texts = output(f"for name in $({every} | cut -d' ' -f1); do git cat-file -p $name; done")
    assert "def add" in texts and "FIX" not in texts and "environment" not in texts
    assert "FIX" not in output("cat .git/packed-refs .git/config; grep -ra FIX .git")
    assert output("cat env.txt; grep -c def calc.py").split() == ["env", "1"]
    with_env.close()


def test_a_clean_image_is_looked_at_once_and_one_of_ours_never(task: TaskInstance) -> None:
    provider, commands = real_provider("local"), []
    for source in ("pypi", "", ""):
        sandbox = Counting(provider.create(SandboxSpec(task.image, task.workdir)))
        scrub(sandbox, replace(task, source=source))
        commands.append(sandbox.commands)
        sandbox.close()
    assert commands == [0, 1, 0]


def test_a_base_commit_that_is_not_there_is_no_fault_of_the_agents(task: TaskInstance) -> None:
    sandbox = real_provider("local").create(SandboxSpec(task.image, task.workdir))
    scrub(sandbox, replace(task, base_commit="0" * 40))
    sandbox.close()
