"""The command line as a user runs it: in a separate process, with tiny tasks in real sandboxes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from swe_gym_env.tasks.jsonl import save
from swe_gym_env.types import TaskInstance
from tests.support.toy_tasks import GOLD as FIX
from tests.support.toy_tasks import real_provider, toy_task

ROOT = Path(__file__).parents[2]
WRONG = FIX.replace("+    return a + b", "+    return a * b")

Start = Callable[..., "subprocess.Popen[str]"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TaskInstance:
    real_provider("local")
    monkeypatch.setenv("SWE_GYM_HOME", str(tmp_path / "home"))
    return replace(toy_task(tmp_path / "home"), gold_patch=FIX)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[subprocess.Popen[str]] = []

    def start(*words: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "swe_gym_env", *map(str, words)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # where the tests run in the background, Ctrl-C would be ignored
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        made.append(process)
        return process

    yield start
    for process in made:
        process.kill()
        process.communicate()


@pytest.fixture
def run(start: Start) -> Run:
    def run(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        process = start(*words)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, out + err
        assert "Traceback" not in err
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    return run


def rows(path: Path, *tasks: TaskInstance) -> Path:
    save(tasks, path)
    return path
