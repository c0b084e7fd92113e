"""A run seen from outside, while its files grow, as it is killed, and before it is there."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from experiments.runs.watch import Tail, Watch, phases
from experiments.view.follow import follow, plain, screen
from swe_gym_env.types import to_dict
from tests.experiments.sample_run import HOSTILE, episode, sample_run

CONFIG = """
rounds: 2
episodes_per_round: 24
iteration0: {episodes: 24}
algorithm: {name: dagger}
evaluation: {split: heldout, tasks: 60, every_round: false}
"""


def text_of(watch: Watch, height: int = 60) -> str:
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(screen(watch, height))
    return console.export_text()


@pytest.mark.slow
def test_a_run_half_done(tmp_path: Path) -> None:
    run = sample_run(tmp_path / "dagger-0123456789")
    (run / "config.yaml").write_text(CONFIG)
    (run / ".lock").write_text(str(os.getpid()))
    shutil.rmtree(run / "evaluations" / "round_002")
    last = run / "rounds" / "round_002" / "episodes.jsonl"
    lines = last.read_text().splitlines(keepends=True)
    last.write_text("".join(lines[:10]))
    for name, marks in {
        "rounds/round_000": ("collect", "train"),
        "rounds/round_001": ("collect", "train"),
        "evaluations/untrained": ("evaluate",),
        "evaluations/iteration0": ("evaluate",),
    }.items():
        for mark in marks:
            (run / name / f"{mark}.done").touch()
    watch = Watch(run)
    assert len(watch.look()) == 60 + 60 + 24 + 24 + 10
    (now,) = watch.under_way()
    assert now.title == "round 2: collect" and not watch.finished
    reported = text_of(watch)
    assert f"running, process {os.getpid()}" in reported
    assert "10 of 24" in reported and "evaluate after round 2" in reported
    rows = [json.loads(line) for line in lines[:10]]
    good = sum(row["outcome"]["status"] == "resolved" for row in rows)
    assert f"{good} of 10" in reported and rows[-1]["instance_id"] in reported
    with last.open("a") as file:
        file.write("".join(lines[10:14]) + lines[14][:50])  # the fifth is torn
    time.sleep(0.05)
    assert len(watch.look()) == 4 and "14 of 24" in text_of(watch)
    assert watch.tail(now).rate(time.monotonic()) and watch.left(now)
    (run / "config.yaml").write_text(CONFIG.replace("every_round", "untrained: 16, every_round"))
    assert [p.total for p in phases(run) if p.marker == "evaluate"] == [16, 60, 60]
    (run / "config.yaml").write_text(CONFIG.replace("every_round", "untrained: false, every_round"))
    watch.look()
    assert "untrained" not in text_of(watch)
    (run / ".lock").write_text("999999999")
    assert "no process of it" in text_of(watch)
    (run / "summary.json").write_text("{}")
    assert "finished" in text_of(watch)
    assert len(text_of(watch, height=24).splitlines()) < 60


def test_a_folder_that_is_not_there_yet_and_one_that_is_no_run(tmp_path: Path) -> None:
    watch = Watch(tmp_path / "later")
    assert watch.look() == [] and "not there yet" in text_of(watch)
    sample_run(tmp_path / "later", tasks=3, training=2)
    (tmp_path / "later" / "config.yaml").unlink()
    assert len(watch.look()) == 15 and "evaluations/untrained" in text_of(watch)


def test_a_single_evaluation(tmp_path: Path) -> None:
    folder = tmp_path / "evaluation-student-0123456789"
    shutil.copytree(sample_run(tmp_path / "run", tasks=5) / "evaluations" / "untrained", folder)
    (folder / "config.yaml").write_text(CONFIG.replace("tasks: 60", "tasks: 4, samples: 2"))
    (folder / "tasks.json").write_text(json.dumps({"train": [], "heldout": ["a", "b", "c"]}))
    watch = Watch(folder)
    assert len(watch.look()) == 5 and not watch.finished and "5 of 6" in text_of(watch)
    (folder / "evaluate.done").touch()
    assert watch.finished


def test_a_file_begun_anew_and_words_that_would_steer_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    row = json.dumps(to_dict(episode("a", 0, 0, True))) + "\n"
    tail = Tail(tmp_path)
    assert tail.read(0.0) == [] and tail.rate(0.0) is None
    path.write_text(row + row)
    assert len(tail.read(1.0)) == 2 and len(tail.outcomes) == 1  # played again: counts once
    path.write_text("")
    assert tail.read(2.0) == [] and tail.outcomes == {}
    shown = plain(HOSTILE)
    assert "\x1b" not in shown and "\x00" not in shown and "</script>" in shown


@pytest.mark.e2e
def test_it_ends_with_the_run_and_with_ctrl_c(tmp_path: Path) -> None:
    run = sample_run(tmp_path / "run", tasks=3, training=2)
    console = Console(width=110, record=True, file=io.StringIO(), force_terminal=True)
    threading.Timer(0.5, lambda: (run / "summary.json").write_text("{}")).start()
    follow(run, console, seconds=0.1)
    assert "finished" in console.export_text()
    (run / "summary.json").unlink()
    command = [sys.executable, "-m", "experiments.view", str(run), "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, error = process.communicate(timeout=120)
    assert (process.returncode, error) == (0, b"") and b"funcy" in first + rest
