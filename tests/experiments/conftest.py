"""A whole job that is real in every part and takes seconds: a tiny repository, a tiny student.

The student is a random Llama, so that it babbles and every budget comes into play; the sandboxes,
the tests in them, the expert, the training and the files are those of the main job.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from swe_gym_env.types import TaskInstance
from tests.algorithms.conftest import smollm2 as smollm2
from tests.algorithms.conftest import tiny_model
from tests.algorithms.conftest import tokenizer as tokenizer
from tests.support import warm
from tests.support.toy_tasks import GOLD, toy_task

ROOT = Path(__file__).parents[2]
EVAL_SCRIPT = """cd /testbed || exit 1
echo '>>>>> Start Test Output'
python -m pytest -rA -p no:cacheprovider test_calc.py 2>&1
echo ">>>>> Exit $?"
echo '>>>>> End Test Output'
"""
CHROMIUM_ARGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here; on Debian: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


@dataclass
class Job:
    """Runs our command lines as real processes, in one store and one runs/ folder."""

    home: Path
    runs: Path
    overrides: tuple[str, ...]

    def command(self, *overrides: str, module: str = "experiments.run") -> list[str]:
        return [sys.executable, "-m", module, *self.overrides, *overrides]

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "SWE_GYM_HOME": str(self.home), "HF_HUB_OFFLINE": "1"}

    def run(
        self,
        *overrides: str,
        module: str = "experiments.run",
        code: int = 0,
        new_interpreter: bool = False,
    ) -> str:
        """Run a command to its end. What it printed, stdout and stderr together.

        It is forked from the warm interpreter, unless ``new_interpreter`` asks for a new one:
        where the import is part of the test, or what the environment does to it.
        """
        if new_interpreter:
            done = subprocess.run(
                self.command(*overrides, module=module),
                cwd=ROOT,
                env=self.env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=840,
            )
            ended, output = done.returncode, done.stdout
        else:
            arguments = (*self.overrides, *overrides)
            interpreter = warm.interpreter(self.env)
            ended, output = interpreter.run(module, *arguments, env=self.env, timeout=840)
        assert ended == code, output
        return output

    def by_hand(self, module: str, *arguments: str, code: int = 0) -> str:
        """A command that takes no overrides."""
        return Job(self.home, self.runs, ()).run(*arguments, module=module, code=code)

    def interrupted(
        self, until: str, number: int, sig: signal.Signals, *overrides: str, within: float = 120
    ) -> str:
        """Start it and send ``sig`` once ``number`` lines stand in a file matching ``until``."""
        log = self.runs.parent / f"interrupted-{time.monotonic_ns()}.txt"
        arguments = (*self.overrides, *overrides)
        run = warm.interpreter(self.env).start("experiments.run", *arguments, env=self.env, log=log)
        try:
            deadline = time.monotonic() + within
            while self.lines(until) < number:
                assert not run.ended(0.02), run.output
                assert time.monotonic() < deadline, "it did not get so far"
            run.send(sig)
            run.wait(60)
            return run.output
        finally:
            run.close()

    def lines(self, pattern: str) -> int:
        return sum(len(path.read_text().splitlines()) for path in self.runs.glob(pattern))

    def folder(self, name: str = "dagger-*") -> Path:
        (found,) = self.runs.glob(name)
        return found


def row(task: TaskInstance, name: str, split: str) -> dict[str, object]:
    return {
        "instance_id": name,
        "repo": task.repo,
        "version": "1",
        "base_commit": task.base_commit,
        "image": task.image,
        "problem_statement": task.problem_statement,
        "patch": GOLD,
        "test_patch": "",
        "FAIL_TO_PASS": list(task.fail_to_pass),
        "PASS_TO_PASS": list(task.pass_to_pass),
        "eval_script": EVAL_SCRIPT,
        "log_parser": task.log_parser,
        "eval_type": task.eval_type,
        "split": split,
    }


@pytest.fixture
def job(tmp_path: Path, tokenizer, monkeypatch: pytest.MonkeyPatch) -> Job:  # type: ignore[no-untyped-def]
    home = tmp_path / "home"
    monkeypatch.setenv("SWE_GYM_HOME", str(home))
    task = toy_task(home)
    splits = ["train"] * 8 + ["heldout"] * 4 + ["val"] * 2
    names = [(f"calc-{i}", split) for i, split in enumerate(splits)]
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text("".join(json.dumps(row(task, *name)) + "\n" for name in names))
    model = tmp_path / "model"
    tiny_model(len(tokenizer)).save_pretrained(model)
    tokenizer.save_pretrained(model)
    overrides = (
        f"paths.runs={tmp_path / 'runs'}",
        f"model.path={model}",
        "model.dtype=float32",
        "tasks=jsonl",
        f"tasks.options.path={tasks}",
        "sandbox=local",
        "rounds=1",
        "episodes_per_round=3",
        "iteration0.episodes=3",
        "evaluation.tasks=3",
        "sampling.max_new_tokens=8",
        "limits.max_turns=5",
        "workers.concurrency=2",
        "workers.threads=1",
    )
    return Job(home, tmp_path / "runs", overrides)
