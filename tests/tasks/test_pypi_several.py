"""Several bugs in one task, and how hard a task is: a package made here, graded in real
sandboxes."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import pytest

from swe_gym_env.errors import SetupError
from swe_gym_env.grading import grade
from swe_gym_env.sandbox import images
from swe_gym_env.tasks import pypi
from swe_gym_env.tasks.pypi import fetch, instance, stats
from swe_gym_env.tasks.pypi.build import build
from swe_gym_env.tasks.pypi.catalog import CORE, PACKAGES, PYTEST
from swe_gym_env.tasks.pypi.record import changed_lines
from swe_gym_env.tasks.pypi.suite import Suite
from swe_gym_env.tasks.rows import from_row
from tests.support.toy_tasks import real_provider
from tests.tasks.tiny import SOURCE, own_store, tiny_package

pytestmark = pytest.mark.sandbox

FILE = "tiny/__init__.py"


@pytest.fixture(scope="module")
def rows(
    tmp_path_factory: pytest.TempPathFactory, pip_environment: None
) -> Iterator[list[dict[str, Any]]]:
    """Tasks of one, two and three bugs."""
    folder = tmp_path_factory.mktemp("several")
    home = own_store(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWE_GYM_HOME", str(home))
        yield build([tiny_package(folder)], counts={"unseen": 3}, bugs=(1, 2, 3))


def found(row: dict[str, Any]) -> str:
    """The file as the agent finds it."""
    return (images.load(row["image"]).tree_path / FILE).read_text()


def partly_fixed(row: dict[str, Any], which: int) -> str:
    """The patch that fixes one place and leaves the others unchanged."""
    before, after = found(row).splitlines(True), SOURCE.splitlines(True)
    places = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    _, start, end, first, last = [place for place in places if place[0] != "equal"][which]
    text = "".join(before[:start] + after[first:last] + before[end:])
    return instance.patch(FILE, found(row).encode(), text.encode())


@pytest.mark.slow
def test_tasks_hold_as_many_bugs_as_asked(rows: list[dict[str, Any]]) -> None:
    assert [row["metadata"]["difficulty"]["bugs"] for row in rows] == [1, 2, 3]
    assert len({row["instance_id"] for row in rows}) == 3
    for row in rows[1:]:
        parts = row["metadata"]["parts"]
        assert row["metadata"]["operator"] == "+".join(part["operator"] for part in parts)
        lines = found(row).splitlines()
        for part in parts:
            assert lines[part["line_start"] - 1].startswith(f"def {part['function']}(")
            assert part["line_start"] <= part["lines"][0] <= part["line_end"] + 1
        text = row["problem_statement"]
        assert text.startswith(f"There are {len(parts)} separate faults")
        places = re.findall(r"The fault is in `(\w+)`", text)
        assert places == [part["function"] for part in parts] and len(set(places)) == len(parts)
        assert text.count("gives") == len(parts)


def test_every_bug_must_be_fixed(rows: list[dict[str, Any]]) -> None:
    sandboxes = real_provider("process")
    for row in rows[1:]:
        task = from_row(row, "pypi")
        assert grade(task, task.gold_patch, sandboxes, timeout=120).reward == 1.0
        for which in range(len(row["metadata"]["parts"])):
            assert grade(task, partly_fixed(row, which), sandboxes, timeout=120).reward == 0.0


def test_the_difficulty_is_what_the_task_shows(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        metadata = row["metadata"]
        functions = metadata.get("parts", [metadata])
        assert metadata["difficulty"] == {
            "bugs": len(functions),
            "files": 1,
            "lines": len(functions),
            "function_lines": metadata["difficulty"]["function_lines"],
            "failing_tests": len(row["FAIL_TO_PASS"]),
            "tests": 10,
            "distance": 1,
        }


def test_what_would_give_the_answer_away_stays_behind(rows: list[dict[str, Any]]) -> None:
    public = pypi._with_help(rows[1], "symptom", 3)
    assert "The fault is in" not in public["problem_statement"]
    assert public["problem_statement"].count("misbehaves") == 2
    for part in public["metadata"]["parts"]:
        assert not {"shape", "symptom"} & set(part)


def test_the_numbers_are_printed(
    rows: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    stats.show()
    output = capsys.readouterr().out
    assert re.search(r"unseen +\d+ +\d+ +\d+ +\d+", output) and "distance" in output


@pytest.mark.parametrize("bugs", [(), (0,), (1, 4)])
def test_a_number_of_bugs_that_cannot_be_is_refused(bugs: tuple[int, ...]) -> None:
    with pytest.raises(SetupError, match="numbers from 1 to 3"):
        build([], bugs=bugs)


@pytest.mark.network
@pytest.mark.slow
def test_the_distance_counts_calls_from_the_test(tmp_path: Path) -> None:
    (tmp_path / "chain.py").write_text(
        '"""Calls."""\n\n'
        "def far(x):\n    return x\n\n"
        "def near(x):\n    return max([x], key=lambda y: far(y))\n\n"
        "def once(x):\n    return x\n\n"
        "ONE = once(1)\n"
    )
    (tmp_path / "test_chain.py").write_text(
        "import chain\n\n"
        "def test_near():\n    assert chain.near(1) == 1\n\n"
        "def test_both():\n    assert chain.near(1) == chain.far(1)\n"
    )
    python = fetch.environment_for("tiny", PYTEST) / "bin" / "python"
    suite = Suite(python, ["."])
    try:
        run = suite.run(tmp_path, ["test_chain.py"], timeout=60, trace=True)
    finally:
        suite.close()
    callers = run.callers["chain.py"]
    near, both = "test_chain.py::test_near", "test_chain.py::test_both"
    assert callers["6"] == {near: 1, both: 1}
    assert callers["3"] == {near: 3, both: 1}, "over near and its lambda; max() is no call of ours"
    assert set(callers["9"]) == {"*"}, "runs at import only"


@pytest.mark.network
@pytest.mark.slow
def test_a_run_that_only_waits_is_ended(tmp_path: Path) -> None:
    (tmp_path / "test_wait.py").write_text("import time\n\ndef test_wait():\n    time.sleep(60)\n")
    suite = Suite(fetch.environment_for("tiny", PYTEST) / "bin" / "python", ["."])
    try:
        run = suite.run(tmp_path, ["test_wait.py"], timeout=0.5)
    finally:
        suite.close()
    assert run.timeout and run.seconds < 20


@pytest.mark.network
@pytest.mark.slow
def test_a_run_that_is_kept_from_running_by_others_is_not_ended(tmp_path: Path) -> None:
    """Else what a busy machine makes of a bug would be another verdict."""
    (tmp_path / "test_work.py").write_text(
        "import time\n\ndef test_work():\n    while time.process_time() < 0.4:\n        pass\n"
    )
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # and that of all that is started here
    command = ["sh", "-c", "while :; do :; done"]
    busy = [subprocess.Popen(command, start_new_session=True) for _ in range(12)]
    suite = Suite(fetch.environment_for("tiny", PYTEST) / "bin" / "python", ["."])
    try:
        run = suite.run(tmp_path, ["test_work.py"], timeout=1)
    finally:
        suite.close()
        for process in busy:
            process.kill()
            process.wait()
        os.sched_setaffinity(0, cores)
    assert run.seconds > 4, "it did wait longer than one that only waits may"
    assert not run.timeout and run.statuses == {"test_work.py::test_work": "PASSED"}


@pytest.mark.parametrize(
    ("body", "count"),
    [("-a\n+b\n", 1), ("-a\n-b\n+c\n", 2), ("+a\n", 1), ("-a\n+b\n c\n-d\n+e\n", 2)],
)
def test_a_replaced_line_counts_once(body: str, count: int) -> None:
    head = "diff --git a/f b/f\n--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n x\n"
    assert changed_lines(head + body) == count


def test_every_package_of_the_catalog_is_pinned() -> None:
    assert len(PACKAGES) >= 15 and set(CORE) < set(PACKAGES)
    for package in PACKAGES.values():
        assert package.version and len(package.sha256) == 64 and package.sources and package.tests
        assert all("==" in need for need in package.requires)
        assert package.unseen or (package.heldout and package.val)
