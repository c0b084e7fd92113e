"""`validate` on good and bad tasks, and what is left of it when it is killed."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swe_gym_env import tasks
from swe_gym_env.commands.validate import validate
from swe_gym_env.types import TaskInstance
from tests.commands.conftest import FIX, WRONG, Run, Start, rows
from tests.support.toy_tasks import real_provider

pytestmark = pytest.mark.sandbox


def results(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "results.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def wait_for(count: int, folder: Path, process: subprocess.Popen[str]) -> None:
    """Until so many tasks are finished."""
    deadline = time.monotonic() + 120
    while not (folder / "results.jsonl").exists() or len(results(folder)) < count:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_verdicts_report_and_the_list_of_valid_tasks(
    task: TaskInstance, tmp_path: Path, run: Run
) -> None:
    wrong = replace(task, instance_id="wrong", gold_patch=WRONG)
    idle = replace(
        task, instance_id="idle", fail_to_pass=task.pass_to_pass, pass_to_pass=task.fail_to_pass[:0]
    )
    lost = replace(task, instance_id="lost", image="nowhere")
    path = rows(tmp_path / "rows.jsonl", task, wrong, idle, lost)
    command = ("validate", path, "--repeats", 1, "--out", tmp_path / "out", "--sandbox", "local")
    done = run(*command)
    verdicts = {result["instance_id"]: result["verdict"] for result in results(tmp_path / "out")}
    assert verdicts == {
        "toy-1": "valid",
        "wrong": "gold_fails",
        "idle": "empty_passes",
        "lost": "setup_error",
    }
    assert "1  valid" in done.stdout and "4/4" in done.stderr
    report = (tmp_path / "out" / "report.md").read_text()
    assert "# 1 of 4 tasks are valid" in report
    assert "| wrong | gold_fails | unresolved: 1 of 1 tests still fail |" in report
    assert tasks.load("jsonl", path=str(tmp_path / "out" / "valid.jsonl")) == [
        replace(task, source="jsonl")
    ]
    again = run(*command)  # only what failed for no fault of the task's is done again
    assert "1/1" in again.stderr and "lost" in again.stderr
    assert again.stdout == done.stdout


def test_repeats_find_tests_that_do_not_always_say_the_same(
    task: TaskInstance, tmp_path: Path
) -> None:
    """A test that passes every other time, counted in a file beside the sandbox."""
    count = f"echo >> {tmp_path}/count; [ $(($(wc -l < {tmp_path}/count) / 2 % 2)) = 0 ]"
    script = f"cd /testbed; {count} || echo 'assert 0' >> test_calc.py\n{task.eval_script}"
    flaky = replace(task, eval_script=script)
    result = validate(flaky, real_provider("process"), repeats=2, timeout=60)
    assert result["verdict"] == "flaky", result
    assert validate(flaky, real_provider("process"), 1, 60)["verdict"] != "flaky"


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on(task: TaskInstance, tmp_path: Path, start: Start) -> None:
    slow = replace(task, eval_script=f"sleep 0.5\n{task.eval_script}")
    many = [replace(slow, instance_id=f"toy-{n}") for n in range(5)]
    out = tmp_path / "out"
    words = ("validate", rows(tmp_path / "rows.jsonl", *many), "--repeats", 1, "--workers", 1)
    first = start(*words, "--out", out, "--sandbox", "local")
    wait_for(2, out, first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    before = (out / "results.jsonl").read_text()
    assert len(results(out)) < 4
    with (out / "results.jsonl").open("a") as file:
        file.write('{"instance_id": "toy-4", "verd')  # as a kill in the middle of a line leaves it
    second = start(*words, "--out", out, "--sandbox", "local")
    wait_for(len(results(out)) + 1, out, second)
    second.send_signal(signal.SIGINT)
    _, err = second.communicate(timeout=60)
    assert second.returncode == 130, err
    assert "Go on with:\n  python -m swe_gym_env validate" in err and "Traceback" not in err
    third = start(*words, "--out", out, "--sandbox", "local")
    text, err = third.communicate(timeout=120)
    assert third.returncode == 0, err
    assert "5  valid" in text
    assert (out / "results.jsonl").read_text().startswith(before)
    assert sorted(result["instance_id"] for result in results(out)) == [
        f"toy-{n}" for n in range(5)
    ]


@pytest.mark.slow
def test_mistakes_are_one_line_that_says_what_to_do(tmp_path: Path, run: Run) -> None:
    for words, message in {
        ("nosuch",): "there are jsonl, pypi",
        ("rows.jsonl",): "no task file at 'rows.jsonl'",
        ("pypi", "-o", "help"): "KEY=VALUE is wanted",
        ("pypi", "-o", "color=red"): "has no option color",
    }.items():
        done = run("validate", *words, code=1)
        assert done.stderr.startswith("error: ") and message in done.stderr
        assert len(done.stderr.splitlines()) == 1
    (tmp_path / "rows.jsonl").write_text(json.dumps({"patch": FIX}) + "\n")
    done = run("validate", "rows.jsonl", code=1)
    assert "rows.jsonl, line 1: row ? has no column 'instance_id'" in done.stderr


@pytest.mark.slow
def test_help_of_every_command(run: Run) -> None:
    text = run("--help").stdout
    for name in ("validate", "grade", "regrade", "prepull", "clean"):
        assert name in text and f"python -m swe_gym_env {name}" in text
        assert "usage: " in run(name, "--help").stdout
