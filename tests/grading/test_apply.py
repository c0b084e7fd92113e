"""What of a patch is applied: hidden tests and configuration stay as they were however a patch
names them, and what serves nobody but its author is left out without a word of reproach."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from swe_gym_env.grading import MAX_PATCH, grade, patches, verdict
from swe_gym_env.grading.apply import Applied, apply
from swe_gym_env.sandbox import SandboxProvider, images
from swe_gym_env.sandbox.start import start
from swe_gym_env.types import Outcome, TaskInstance
from tests.support.toy_tasks import BUG, GOLD, real_provider, toy_task

pytestmark = pytest.mark.sandbox

CHEAT = "def test_add(): pass\ndef test_zero(): pass\n"
FILES = {"conftest.py": "import calc  # noqa\n", "setup.cfg": "[tool:pytest]\naddopts = -q\n"}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaskInstance]:
    home = tmp_path_factory.mktemp("apply")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWE_GYM_HOME", str(home))
        yield replace(toy_task(home, files=FILES), gold_patch=GOLD)


@pytest.fixture(scope="module")
def sandboxes() -> SandboxProvider:
    return real_provider("local")


def made(task: TaskInstance, tmp_path: Path, script: str, *options: str) -> str:
    """git's own diff, with options, of what ``script`` does to the tree."""
    tree = tmp_path / "tree"
    subprocess.run(["cp", "-r", images.path_of(task.image) / "tree", tree], check=True)
    subprocess.run(["bash", "-ec", f"{script}\ngit add -A"], cwd=tree, check=True)
    settings = [part for option in options if "=" in option for part in ("-c", option)]
    words = ["diff", "--cached", "--binary", *(o for o in options if "=" not in o), "HEAD"]
    done = subprocess.run(["git", *settings, *words], cwd=tree, check=True, capture_output=True)
    return done.stdout.decode("utf-8", "surrogateescape")


FIX = "sed -i 's/a - b/a + b/' calc.py;"
MOVES = {
    "renamed": "git mv test_calc.py old.py",
    "renamed and changed": "git mv test_calc.py old.py; echo '# x' >> old.py",
    "renamed with an odd name": "git mv test_calc.py $'o\"l\\td\\n\\xe9.py'",
    "into a folder": "mkdir sub; git mv test_calc.py conftest.py setup.cfg sub/",
    "another case": "git mv test_calc.py Test_Calc.py",
    "another mode": "chmod +x test_calc.py conftest.py",
    "another type": "rm test_calc.py; ln -s calc.py test_calc.py",
    "a folder in its place": "rm test_calc.py; mkdir test_calc.py; echo > test_calc.py/x",
    "configuration renamed": "git mv conftest.py c.py; git mv setup.cfg s.cfg",
    "something else renamed to it": "echo 'def test_add(): 1' > t.py; git rm -q test_calc.py;"
    "git mv -f setup.cfg test_calc.py",
}


def applied(task: TaskInstance, patch: str, sandboxes: SandboxProvider) -> tuple[Applied, str]:
    """The result, and the files of the sandbox that then differ from the base commit."""
    sandbox = start(sandboxes, task, for_agent=False)
    try:
        result = apply(sandbox, task, patch)
        status = sandbox.exec("git add -A; git diff --cached --name-status HEAD", timeout=60)
        return result, status.output.decode()
    finally:
        sandbox.close()


@pytest.mark.sampled(8)
@pytest.mark.parametrize("options", [("-M",), ("--no-renames",), ("diff.mnemonicPrefix=true",)])
@pytest.mark.parametrize("name", MOVES)
def test_a_hidden_test_is_back_however_it_went(
    task: TaskInstance,
    sandboxes: SandboxProvider,
    tmp_path: Path,
    name: str,
    options: tuple[str, ...],
) -> None:
    patch = made(task, tmp_path, f"{FIX} {MOVES[name]}", *options)
    result, changed = applied(task, patch, sandboxes)
    assert result == Applied(), patch
    assert "M\tcalc.py" in changed
    for kept in ("test_calc.py", "conftest.py", "setup.cfg"):
        assert f"\t{kept}\n" not in changed and f"\t{kept}\t" not in changed, changed


def test_a_renamed_hidden_test_is_graded(
    task: TaskInstance, sandboxes: SandboxProvider, tmp_path: Path
) -> None:
    patch = made(
        task, tmp_path, f"{FIX} {MOVES['renamed']}; {MOVES['configuration renamed']}", "-M"
    )
    assert "rename from test_calc.py" in patch
    assert grade(task, patch, sandboxes).status == "resolved"


def test_a_copy_and_a_rename_pay_nothing(
    task: TaskInstance, sandboxes: SandboxProvider, tmp_path: Path
) -> None:
    script = f"git mv test_calc.py old.py; printf '{CHEAT}' > test_calc.py; cp calc.py calc2.py"
    patch = made(task, tmp_path, script.replace("\n", "\\n"), "-C", "--find-copies-harder", "-B")
    outcome = grade(task, patch, sandboxes)
    assert outcome.status == "unresolved" and "still fail" in outcome.reason


def new(name: str, text: str, mode: str = "100644") -> str:
    body = "".join(f"+{line}\n" for line in text.split("\n"))
    mark = "\\ No newline at end of file\n"
    return (
        f"diff --git a/{name} b/{name}\nnew file mode {mode}\n--- /dev/null\n+++ b/{name}\n"
        f"@@ -0,0 +1,{len(text.splitlines())} @@\n{body}{mark}"
    )


LEFT_OUT = {
    "a scratch link": (new("scratch", "/tmp/scratch", "120000"), "scratch is a link out"),
    "a link to nothing": (new("sub/null", "/dev/null", "120000"), "sub/null is a link out"),
    "a link upwards": (new("up", "../elsewhere", "120000"), "up is a link out"),
    "a link to itself": (new("self", ".", "120000"), "self is a link out"),
    "a virtual environment": (
        new("venv/pyvenv.cfg", "home = /usr/bin")
        + new("venv/bin/python", "/usr/bin/python3", "120000")
        + new("venv/lib/x-info/entry_points.txt", "[pytest11]\nx = x")
        + new("venv/lib/sitecustomize.py", "raise SystemExit"),
        "venv is a virtual environment",
    ),
    "tests called unittest": (new("tests/unittest/test_x.py", "x"), "tests/unittest/test_x.py"),
    "tests called pytest": (new("test/pytest/__init__.py", "x"), "test/pytest/__init__.py"),
    "a folder that is no package": (new("unittest/test_x.py", "x"), "unittest/test_x.py"),
}
APPLIED = {
    "a link into .github": new(".github/a", "a") + new("link", ".github/a", "120000"),
    "a link into .gitignore": new(".gitignore", "a") + new("link", ".gitignore", "120000"),
    "an absolute link inside": new("link", "/testbed/calc.py", "120000"),
    "a broken link inside": new("link", "nothing", "120000"),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_serves_only_its_author_is_left_out(
    task: TaskInstance, sandboxes: SandboxProvider, name: str
) -> None:
    patch, reason = LEFT_OUT[name]
    result, changed = applied(task, GOLD + patch, sandboxes)
    assert (result.failed, result.tampered, changed) == ("", "", "M\tcalc.py\n")
    (sentence,) = result.left_out
    assert sentence.startswith(reason)


@pytest.mark.parametrize("name", APPLIED)
def test_links_within_the_repository_are_applied(
    task: TaskInstance, sandboxes: SandboxProvider, name: str
) -> None:
    result, changed = applied(task, GOLD + APPLIED[name], sandboxes)
    assert result == Applied() and "A\tlink" in changed


def test_the_reason_says_what_was_left_out(task: TaskInstance, sandboxes: SandboxProvider) -> None:
    patch, logs = LEFT_OUT["a virtual environment"][0], list[tuple[str, str]]()
    outcome = grade(task, GOLD + patch, sandboxes, on_log=lambda *log: logs.append(log))
    assert outcome.status == "resolved", outcome
    assert outcome.reason == "left out: venv is a virtual environment"
    assert verdict(task, *logs[0]).reason == outcome.reason
    outcome = grade(task, patch, sandboxes)
    assert outcome.status == "unresolved" and "still fail; left out: venv" in outcome.reason


FATAL = {
    "a link in place of a hidden test": new("test_calc.py", "/tmp/x.py", "120000"),
    "a link in place of configuration": new("sub/conftest.py", "/tmp/x.py", "120000"),
    "a link to .git": new("dot", ".git", "120000"),
    "a link into .git": new("dot", ".git/config", "120000"),
    "a link above": new("root", "/", "120000"),
    "a package in its place": new("unittest/__init__.py", "x") + new("unittest/x.py", "x"),
    "a module in its place": new("src/unittest.py", "x"),
    "a plugin": new("x.egg-info/entry_points.txt", "[pytest11]\nx = x"),
}


@pytest.mark.parametrize("name", FATAL)
def test_real_tampering_is_still_caught(
    task: TaskInstance, sandboxes: SandboxProvider, name: str
) -> None:
    patch = FATAL[name]
    if name.endswith("hidden test"):
        old = (images.path_of(task.image) / "tree/test_calc.py").read_text()
        gone = "".join(f"-{line}\n" for line in old.splitlines())
        lines = old.splitlines()
        gone = "".join(f"-{line}\n" for line in lines)
        header = "diff --git a/test_calc.py b/test_calc.py\ndeleted file mode 100644\n"
        hunk = f"--- a/test_calc.py\n+++ /dev/null\n@@ -1,{len(lines)} +0,0 @@\n"
        patch = header + hunk + gone + patch
    outcome = grade(task, GOLD + patch, sandboxes)  # it never comes to the tests
    assert outcome.status == "tampered" and outcome.reward == 0, outcome


def test_thousands_of_configurations_hide_none(
    task: TaskInstance, sandboxes: SandboxProvider
) -> None:
    lie = "def pytest_collection_modifyitems(items): del items[:]"
    many = "".join(new(f"d{n}/conftest.py", "x = 1") for n in range(3000))
    shared = "".join(new(f"d{n}/setup.cfg", "[tool:pytest]\naddopts = --co") for n in range(300))
    result, changed = applied(task, GOLD + many + shared + new("zzz/conftest.py", lie), sandboxes)
    assert result == Applied() and changed == "M\tcalc.py\n"


def test_a_project_that_is_a_plugin_may_be_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sandboxes: SandboxProvider
) -> None:
    monkeypatch.setenv("SWE_GYM_HOME", str(tmp_path))
    task = toy_task(tmp_path, files={"setup.py": "# entry_points={'pytest11': ['calc = calc']}\n"})
    result, changed = applied(task, GOLD + FATAL["a plugin"], sandboxes)
    assert not result.tampered and changed == "M\tcalc.py\n"
    assert result.left_out == ("x.egg-info/entry_points.txt would load a plugin into pytest",)


def test_a_patch_that_no_file_can_hold_and_one_that_is_too_large(
    task: TaskInstance, sandboxes: SandboxProvider
) -> None:
    def judged(patch: str) -> Outcome:
        outcome = grade(task, patch, sandboxes)
        assert (outcome.status, outcome.reward, outcome.mask) == ("unresolved", 0.0, False)
        return outcome

    assert "U+D83D" in judged(GOLD + "\ud83d").reason
    assert "8 MiB" in judged(GOLD + new("big", "x" * MAX_PATCH)).reason


def test_a_last_newline_that_was_stripped_is_put_back(
    task: TaskInstance, sandboxes: SandboxProvider
) -> None:
    assert applied(task, GOLD.rstrip("\n"), sandboxes) == (Applied(), "M\tcalc.py\n")


MODE = "old mode 100644\nnew mode 100755\n"
SUBMODULE = "new file mode 160000\n--- /dev/null\n+++ b/sub\n@@ -0,0 +1 @@\n+Subproject commit 1\n"
NAMES = [
    (GOLD, {"calc.py"}),
    (GOLD.replace("a/", "i/").replace("b/", "w/"), {"calc.py"}),
    (GOLD.replace("a/", "").replace("b/", ""), {"calc.py"}),
    (GOLD.replace("\n", "\r\n"), {"calc.py"}),
    ("--- a/x y\t2026\n+++ b/x y\t2026\n@@ -1 +1 @@\n--- a/no\n+++ b/no\n", {"x y"}),
    (f"diff --git a/x y b/x y\n{MODE}", {"x y"}),
    ("diff --git a/x b/x\nnew file mode 100644\nindex 0000000..e69de29\n", {"x"}),
    ("diff --git a/a b b/c d\nrename from a b\nrename to c d\n", {"a b", "c d"}),
    (f'diff --git "a/\\303\\251\\n" "b/\\303\\251\\n"\n{MODE}', {"é\n"}),
    ('diff --git a/x "b/\\351"\ncopy from x\ncopy to "\\351"\n', {"x", "\udce9"}),
    ("diff --git a/p.png b/p.png\nindex 1..2 100644\nGIT binary patch\nliteral 4\n", {"p.png"}),
    (f"diff --git a/sub b/sub\n{SUBMODULE}", {"sub"}),
]


@pytest.mark.parametrize(("patch", "names"), NAMES)
def test_names_are_read_from_any_kind_of_patch(patch: str, names: set[str]) -> None:
    assert patches.named(patch) == names


def test_the_bug_is_there(task: TaskInstance) -> None:
    assert (images.path_of(task.image) / "tree/calc.py").read_text() == BUG
