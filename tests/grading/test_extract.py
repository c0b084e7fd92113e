"""Whatever an agent does to its repository, its disk or its files: its change comes out and is
scored, or the reason says what stood in the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swe_gym_env.env import SWEEnv
from swe_gym_env.errors import SandboxError
from swe_gym_env.grading.extract import MAX_PATCH, MOST_LISTED, Extracted, extract, moment
from swe_gym_env.rollout.running import Request, RunningEpisode
from swe_gym_env.sandbox import SandboxProvider
from swe_gym_env.sandbox.start import base_commit, start
from swe_gym_env.types import TaskInstance
from tests.support.toy_tasks import FINISH, real_provider, toy_task

pytestmark = pytest.mark.sandbox

FIX = "sed -i 's/a - b/a + b/' calc.py"
GIT = "git -c user.name=a -c user.email=a@b"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaskInstance]:
    home = tmp_path_factory.mktemp("extract")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWE_GYM_HOME", str(home))
        yield toy_task(home, files={".gitignore": "build/\n*.log\n", "data.txt": "x\n" * 50})


def play(task: TaskInstance, *commands: str, provider: SandboxProvider | None = None) -> Any:
    """The last info of an episode that fixes the bug and then does this."""
    env = SWEEnv([task], sandbox=provider or real_provider("local"))
    env.reset(seed=0)
    for command in (FIX, *commands):
        env.step(f"```bash\n{command}\n```")
    *_, info = env.step(FINISH)
    env.close()
    return info


REPOSITORY = {
    "removed": ("rm -rf .git", "removed .git"),
    "renamed": ("mv .git old.git", "removed .git"),
    "a file": ("rm -rf .git; echo x > .git", "replaced .git"),
    "another repository": (
        f"rm -rf .git; git init -q; git add -A; {GIT} commit -qm x",
        "git could",
    ),
    "corrupt": (
        "chmod -R u+w .git; find .git/objects -type f -exec sh -c 'echo x > \"$1\"' _ {} ';'",
        "git could",
    ),
    "base collected": (
        "git checkout -q --orphan z; git branch -D main; rm -rf .git/logs; git gc -q --prune=now",
        "git could",
    ),
    "disk full": ("cat /dev/zero > /tmp/fill", "disk of the agent's sandbox was full"),
    "no inodes": ("mkdir /tmp/q; cd /tmp/q; seq 100000 | xargs touch", "sandbox was full"),
    "a fifo for a tracked file": ("rm data.txt; mkfifo data.txt", "git could"),
    "all removed but the fix": ("rm -rf .git data.txt .gitignore", "removed .git"),
    "odd names without .git": (
        "rm -rf .git; touch $'new\\nline' $'l\\xe9' -- -x; mkdir .GIT 'ü b'; touch .GIT/x 'ü b/y'; "
        "ln -s calc.py link; chmod +x data.txt",
        "removed .git",
    ),
}
HARMLESS = {
    "a link": "mv .git /tmp/g; ln -s /tmp/g .git",
    "unreadable": "chmod -R 000 .git",
    "unreadable files": "chmod 000 calc.py data.txt",
    "unreadable tree": "chmod -R 000 .",
    "bad configuration": "echo '[' > .git/config; rm .git/HEAD",
    "locks": "touch .git/index.lock .git/HEAD.lock .git/config.lock",
    "alternates": "echo /nowhere > .git/objects/info/alternates; touch .git/shallow",
    "a worktree": "git worktree add -q /tmp/wt; rm -f .git/index",
    "a repository put around": "mkdir sub; mv calc.py sub/; git -C sub init -q; "
    "mv sub/calc.py .; rm -rf sub",
    "a crowd": "for n in $(seq 300); do sleep 60 & done 2>/dev/null",
    "odd files": "mkfifo p; touch $'new\\nline' $'l\\xe9' -- -x; ln -s /dev/null null",
    "a global ignore": "mkdir -p ~/.config/git; printf '[core]\\nautocrlf=true\\n' > ~/.gitconfig",
}


def extracted(task: TaskInstance, command: str, name: str = "local") -> Extracted:
    """What comes out of a sandbox in which the bug was fixed and then this was done."""
    sandboxes = real_provider(name)
    sandbox = start(sandboxes, task)
    try:
        base, began = base_commit(sandbox, task), moment()
        sandbox.exec(FIX, timeout=60)
        sandbox.exec(command, timeout=60)
        return extract(sandbox, task, sandboxes, base, began)
    finally:
        sandbox.close()


@pytest.mark.parametrize("name", REPOSITORY)
def test_a_fix_is_not_lost_with_the_repository(task: TaskInstance, name: str) -> None:
    command, words = REPOSITORY[name]
    found = extracted(task, command)
    assert "+    return a + b" in found.patch and not found.refused
    assert words in found.note and "compared with a fresh copy" in found.note


@pytest.mark.parametrize("name", HARMLESS)
def test_what_does_not_concern_git_changes_nothing(task: TaskInstance, name: str) -> None:
    found = extracted(task, HARMLESS[name])
    assert found.patch.count("+    return a + b") == 1
    assert (found.note, found.refused) == ("", "")


@pytest.mark.parametrize("command", ["rm -rf .git", "rm -rf .git; mkdir .git", "mv .git sub.git"])
def test_process_sandbox_gives_the_change_too(task: TaskInstance, command: str) -> None:
    found = extracted(task, command, "process")
    assert "+    return a + b" in found.patch and ".git" in found.note


def test_both_ways_give_the_same_patch(task: TaskInstance) -> None:
    work = (
        "touch $'new\\nline' $'l\\xe9' -- -x; mkdir sub 'ü b'; mv data.txt sub/; touch 'ü b/y'; "
        "ln -s calc.py link; ln -s nowhere broken; chmod +x test_calc.py; rm .gitignore; "
        "mkdir calc; head -c 3000 /dev/urandom > calc/bin"
    )
    sandbox_work = f"mkdir -p .seed; {work}".replace("/dev/urandom", "calc.py")
    assert (
        extracted(task, sandbox_work).patch == extracted(task, f"{sandbox_work}; rm -rf .git").patch
    )


@pytest.mark.parametrize("name", ["removed", "disk full"])
def test_fix_resolves_and_reason_has_the_note(task: TaskInstance, name: str) -> None:
    command, words = REPOSITORY[name]
    info = play(task, command)
    assert info["outcome"].status == "resolved", info["outcome"]
    assert words in info["outcome"].reason and "+    return a + b" in info["patch"]


def test_change_of_the_repository_alone_is_noted(task: TaskInstance) -> None:
    info = play(task, "rm -rf .git; sed -i 's/a + b/a - b/' calc.py")
    assert info["outcome"].status == "empty_patch" and not info["outcome"].mask
    assert "no change" in info["outcome"].reason and "removed .git" in info["outcome"].reason


def test_a_tree_that_is_gone_is_the_agents_doing(task: TaskInstance) -> None:
    outcome = play(task, "rm -rf .git * .gitignore")["outcome"]
    assert (outcome.status, outcome.reward, outcome.mask) == ("unresolved", 0.0, False)
    assert "removed .git" in outcome.reason


LARGE = {
    "a text of 257 MB": "yes 0123456789abcdef | head -c 269484032 > big.txt",
    "a sparse file": "truncate -s 400M big.bin",
    "noise": "head -c 9000000 /dev/urandom > big.bin",
    "many files": "for n in $(seq 100); do yes $n | head -c 100000 > big$n; done",
    "one line": "head -c 9000000 /dev/zero | tr '\\0' x > big.txt",
    "the disk, in the tree": "cat /dev/zero > big.bin",
    "the disk, in small files": "for n in $(seq 60); do head -c 9000000 /dev/urandom > big$n; done",
    "without a repository": "rm -rf .git; truncate -s 100M big.bin",
}


@pytest.mark.parametrize("name", LARGE)
def test_a_size_that_the_agent_chose_is_its_zero(task: TaskInstance, name: str) -> None:
    info = play(task, LARGE[name])
    outcome = info["outcome"]
    assert (outcome.status, outcome.reward, outcome.mask) == ("unresolved", 0.0, False), outcome
    assert "MiB" in outcome.reason and len(outcome.reason) < 500
    assert outcome.reason in info["left_out"]
    assert len(info["patch"]) <= MAX_PATCH and info["stop_reason"] == "finished"


def test_a_change_below_the_limit_is_whole(task: TaskInstance) -> None:
    found = extracted(task, "head -c 2000000 /dev/urandom > data.bin; seq 300000 > data.txt")
    assert not found.refused and len(found.patch) > 4_000_000


def test_ignored_files_are_reported(task: TaskInstance) -> None:
    found = extracted(task, "mkdir build; touch build/new.py a.log; python -c 'import calc'")
    assert set(found.left_out) == {"build/ (ignored by git)", "a.log (ignored by git)"}
    info = play(task, "git checkout -q calc.py; mkdir build; cp calc.py build/")
    assert info["outcome"].status == "empty_patch"
    assert "no change; left out: build/ (ignored by git)" in info["outcome"].reason
    assert info["left_out"] == ("build/ (ignored by git)",)


def test_it_stands_in_the_stored_episode(task: TaskInstance) -> None:
    env = SWEEnv([task], sandbox=real_provider("local"))
    live = RunningEpisode(Request(task), env)
    live.env.reset(seed=0)
    live.env.step("```bash\necho > a.log\n```")
    *_, live.info = live.env.step(FINISH)
    episode = live.episode(live.info["outcome"], "finished")
    assert episode.metadata["left_out"] == ["a.log (ignored by git)"]


def test_the_list_of_what_is_left_out_is_bounded(task: TaskInstance) -> None:
    listed = extracted(task, "seq -f '%g.log' 3000 | xargs touch").left_out
    assert len(listed) == MOST_LISTED + 1 and "more" in listed[-1]


def test_ignored_files_of_the_image_are_not_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWE_GYM_HOME", str(tmp_path))
    task = toy_task(tmp_path, files={".gitignore": "*.so\n"})
    (tmp_path / "images/toy/tree/built.so").write_text("x")
    for name in ("local", "process"):
        assert extracted(task, "true", name).left_out == ()


FOLDERS = {
    "python3 -m venv --without-pip venv": "venv/ (a virtual environment)",
    "python3 -m venv --without-pip 'my [env] 1'": "my [env] 1/ (a virtual environment)",
    "python3 -m venv --without-pip .": "pyvenv.cfg (ignored by git)",
    "mkdir -p node_modules/x; echo > node_modules/x/y": "node_modules/ (a folder of tools)",
    "mkdir -p .mypy_cache .tox/py; echo > .mypy_cache/x; echo > .tox/py/x": ".tox/ (a folder of",
    f"git init -q sub; cd sub; echo > x; git add x; {GIT} commit -qm x": "sub/ (a separate",
    "git clone -q --no-hardlinks . copy; echo more >> copy/calc.py": "copy/ (a separate",
}


@pytest.mark.parametrize("command", FOLDERS)
def test_folders_of_tools_are_left_out_and_reported(task: TaskInstance, command: str) -> None:
    found = extracted(task, command)
    assert found.patch.count("diff --git") == 1 and not found.note
    assert any(line.startswith(FOLDERS[command]) for line in found.left_out), found.left_out


def test_a_repository_around_tracked_files_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWE_GYM_HOME", str(tmp_path))
    task = toy_task(tmp_path, files={"pkg/a.py": "x\n"})
    found = extracted(task, "echo y > pkg/a.py; echo z > pkg/b.py; git init -q pkg")
    assert "+y" in found.patch and "b/pkg/b.py" in found.patch
    assert "Subproject" not in found.patch


class Second:
    """A provider whose sandboxes after the first cannot be made, as on a machine with a full
    disk."""

    name = "second"

    def __init__(self, inner: SandboxProvider) -> None:
        self.inner, self.made = inner, 0

    def unavailable(self) -> str | None:
        return None

    def create(self, spec: Any) -> Any:
        self.made += 1
        if self.made > 1:
            raise SandboxError("no space left on this machine")
        return self.inner.create(spec)


def test_a_fault_of_the_machine_stays_one(task: TaskInstance) -> None:
    info = play(task, "rm -rf .git", provider=Second(real_provider("local")))
    assert (info["stop_reason"], info["outcome"].mask) == ("infra_error", True)
    assert "no space left on this machine" in info["outcome"].reason


def test_a_short_hash_that_the_agent_makes_a_branch_is_the_commit(task: TaskInstance) -> None:
    short = replace(task, base_commit=task.base_commit[:7])
    found = extracted(short, f"git add -A; {GIT} commit -qm x; git branch {task.base_commit[:7]}")
    assert "+    return a + b" in found.patch
