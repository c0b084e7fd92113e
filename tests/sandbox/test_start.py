"""A task whose image is not what its row says is refused before an agent begins."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from swe_gym_env.env import SWEEnv
from swe_gym_env.errors import SandboxError, SetupError
from swe_gym_env.grading import grade
from swe_gym_env.sandbox import images
from swe_gym_env.sandbox.start import base_commit, start
from swe_gym_env.types import TaskInstance
from tests.support.toy_tasks import FINISH, FIX, FlakySandbox, real_provider, toy_task

pytestmark = pytest.mark.sandbox


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TaskInstance:
    monkeypatch.setenv("SWE_GYM_HOME", str(tmp_path))
    return toy_task(tmp_path)


def in_tree(task: TaskInstance, *words: str) -> None:
    subprocess.run(words, cwd=images.path_of(task.image) / "tree", check=True)


@pytest.mark.parametrize("provider", ["local", "process"])
@pytest.mark.parametrize("wrong", ["a" * 40, "0" * 7, "", "no-such-tag", "-x", "$(touch /tmp/x)"])
def test_a_commit_that_the_image_does_not_hold_is_refused(
    task: TaskInstance, provider: str, wrong: str
) -> None:
    bad, sandboxes = replace(task, base_commit=wrong), real_provider(provider)
    env = SWEEnv([bad], sandbox=sandboxes)
    with pytest.raises(SetupError, match="toy-1: the image 'toy' does not hold its base_commit"):
        env.reset()
    assert env.sandbox is None
    with pytest.raises(SetupError, match=r"holds no such commit.*Correct the row"):
        grade(bad, task.gold_patch or "x", sandboxes)


@pytest.mark.parametrize("length", [4, 7, 12, 39])
def test_a_short_hash_is_found(task: TaskInstance, length: int) -> None:
    short = replace(task, base_commit=task.base_commit[:length].upper())
    env = SWEEnv([short], sandbox=real_provider("local"))
    env.reset()
    env.step(FIX)
    *_, info = env.step(FINISH)
    assert info["outcome"].resolved, info["outcome"]


@pytest.mark.slow
def test_a_hash_that_fits_two_commits_is_refused(task: TaskInstance) -> None:
    commit = "git -c user.name=a -c user.email=a@b commit-tree -m $n 'HEAD^{tree}' >>.git/made"
    dates = "export GIT_AUTHOR_DATE='1000000000 +0000' GIT_COMMITTER_DATE='1000000000 +0000'"
    in_tree(task, "bash", "-c", f"{dates}; for n in $(seq 500); do {commit}; done")
    made = (images.path_of(task.image) / "tree/.git/made").read_text().split()
    prefixes = [name[:4] for name in made]
    twice = next(name for name in prefixes if prefixes.count(name) > 1)
    with pytest.raises(SetupError, match="write the whole hash"):
        SWEEnv([replace(task, base_commit=twice)], sandbox=real_provider("local")).reset()


def test_an_image_without_repository_git_or_folder_is_refused(task: TaskInstance) -> None:
    sandboxes = real_provider("local")
    tree = images.path_of(task.image) / "tree"
    nowhere = replace(task, env={"PATH": "/nowhere"})
    with pytest.raises(SetupError, match="git is not installed"):
        start(sandboxes, nowhere)
    shutil.move(tree / ".git", tree.parent / "elsewhere")
    with pytest.raises(SetupError, match="no git repository"):
        start(sandboxes, task)
    (tree / ".git").write_text("gitdir: ../elsewhere\n")
    with pytest.raises(SetupError, match=r"\.git is a file"):
        start(sandboxes, task)


def test_a_working_folder_that_is_not_there_is_refused(task: TaskInstance) -> None:
    sandbox = real_provider("local").create(_spec(task))
    with pytest.raises(SetupError, match=r"/nowhere cannot be entered \(No such file"):
        base_commit(sandbox, replace(task, workdir="/nowhere"))
    sandbox.close()


def test_image_is_asked_once_and_a_dead_sandbox_is_a_fault(task: TaskInstance) -> None:
    class Counting(FlakySandbox):
        asked = 0

        def exec(self, command, **options):  # type: ignore[no-untyped-def]
            self.asked += 1
            return super().exec(command, **options)

    provider = real_provider("local")
    dead = FlakySandbox(provider.create(_spec(task)), 0)
    with pytest.raises(SandboxError, match="the sandbox is gone"):
        base_commit(dead, task)
    sandbox = Counting(provider.create(_spec(task)), 9)
    assert base_commit(sandbox, task) == base_commit(sandbox, task) == task.base_commit
    assert sandbox.asked == 1
    for made in (dead, sandbox):
        made.close()


def _spec(task: TaskInstance):  # type: ignore[no-untyped-def]
    from swe_gym_env.sandbox import SandboxSpec

    return SandboxSpec.of(task)
