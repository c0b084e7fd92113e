"""Runs to break: a whole job in seconds, what must survive of it, and what must not be left over.

The repository has a bug of one line, the student is a tiny random model, the expert teaches;
sandboxes, grading, training and files are those of the main job. Nothing an agent sees reveals the
time, so the same requests give the same episodes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.experiments.conftest import EVAL_SCRIPT, row
from tests.support.toy_tasks import toy_task
from tests.support.warm import Run, WarmInterpreter
from tests.support.warm_server import ROOT

# pytest says how long it took, unless quiet is asked for twice
FILES = {"pytest.ini": "[pytest]\naddopts = -q\n"}
QUIET = EVAL_SCRIPT.replace("pytest -rA", "pytest -rA -o addopts=")
SMALL = (
    "model.dtype=float32",
    "tasks=jsonl",
    "sandbox=local",
    "rounds=1",
    "beta=constant",
    "episodes_per_round=3",
    "iteration0.episodes=2",
    "iteration0.epochs=1",
    "evaluation.tasks=2",
    "sampling.max_new_tokens=8",
    "limits.max_turns=6",
    "workers.concurrency=3",
    "workers.threads=1",
    "logging.seconds_between_lines=0",
)
# What no two runs have in common: times, and the tag that distinguishes the attempts of an episode
TIMES = {"seconds", "act_seconds", "step_seconds", "costs", "attempts", "attempt"}


class Job:
    """A configuration in a separate folder, which is run, broken and run again."""

    def __init__(
        self, interpreter: WarmInterpreter, stage: Stage, folder: Path, *overrides: str
    ) -> None:
        self.interpreter, self.stage, self.folder = interpreter, stage, folder
        self.runs, self.temporary = folder / "runs", folder / "tmp"
        self.temporary.mkdir(parents=True, exist_ok=True)
        self.overrides = [*stage.overrides, f"paths.runs={self.runs}", *overrides]
        self.pids: list[int] = []
        self.mounts: set[str] = set()  # points at which this job itself wants something mounted

    def start(self, *overrides: str, env: dict[str, str] | None = None, **order: Any) -> Run:
        run = self.interpreter.start(
            "experiments.run",
            *self.overrides,
            *overrides,
            env={
                **os.environ,
                "HF_HUB_OFFLINE": "1",
                "PYTHONPATH": str(ROOT),
                "SWE_GYM_HOME": str(self.stage.home),
                "TMPDIR": str(self.temporary),
                **(env or {}),
            },
            log=self.folder / f"log{len(self.pids)}.txt",
            **order,
        )
        self.pids.append(run.pid)
        return run

    def finish(self, *overrides: str, **order: Any) -> Run:
        run = self.start(*overrides, **order)
        code = run.wait()
        assert code == 0, run.output
        return run

    def keep(self) -> None:
        """Move what it wrote to where it would have been without a separate disk."""
        there, self.runs = self.runs, self.folder / "runs"
        shutil.copytree(there, self.runs, symlinks=True)
        for path in self.runs.rglob("*.jsonl"):  # who played says from which checkpoint
            path.write_text(path.read_text().replace(str(there), str(self.runs)))

    # -- what is there -------------------------------------------------------------------------

    def files(self, name: str) -> list[Path]:
        return [p for p in sorted(self.runs.rglob(name)) if not p.is_symlink()]

    def raw(self) -> list[dict[str, Any]]:
        """Every whole line of every episodes.jsonl, in the order in which they were written."""
        return [
            {"file": path.relative_to(self.runs).as_posix(), **json.loads(line)}
            for path in self.files("episodes.jsonl")
            for line in path.read_bytes().splitlines(keepends=True)
            if line.endswith(b"\n")
        ]

    def episodes(self) -> dict[str, Any]:
        """All that a run keeps of what was played and labeled, times apart."""
        text = str(self.runs)
        found: dict[str, Any] = {}
        for line in self.raw():
            if not line["outcome"]["mask"]:
                found[f"{line['file']} {line['episode_id']}"] = _timeless(line, text)
        labels = [p for p in self.files("annotations.jsonl")]
        for path in labels:
            for line in path.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):
                    one = json.loads(line)
                    key = f"{path.relative_to(self.runs)} {one['episode_id']} {one['turn']}"
                    found[key] = _timeless(one, text)
        return found

    def lines(self, name: str = "episodes.jsonl") -> int:
        return sum(path.read_bytes().count(b"\n") for path in self.files(name))

    def supervisors(self) -> list[int]:
        """Processes outside the sandboxes that hold one each, the one that forks them (the nursery)
        left out."""
        found = [(pid, words) for pid, words, _ in _processes() if self._nursery(words)]
        parents = {pid: _parent(pid) for pid, _ in found}
        nursery = [pid for pid, parent in parents.items() if parent in self.pids]
        return [pid for pid, parent in parents.items() if parent in nursery]

    def nursery(self) -> list[int]:
        """The process that makes the sandboxes."""
        found = [pid for pid, words, _ in _processes() if self._nursery(words)]
        return [pid for pid in found if _parent(pid) in self.pids]

    def _nursery(self, words: str) -> bool:
        return "nursery" in words and any(f", {pid})" in words for pid in self.pids)

    def weights(self) -> dict[str, bytes]:
        return {
            p.relative_to(self.runs).as_posix(): p.read_bytes() for p in self.files("*.safetensors")
        }

    def doubled(self) -> int:
        ids = Counter((e["file"], e["episode_id"]) for e in self.raw() if not e["outcome"]["mask"])
        return sum(count - 1 for count in ids.values())

    # -- what must not be there ----------------------------------------------------------------

    def orphans(self, seconds: float = 15.0) -> list[str]:
        """What outlives the runs of this job, after a little while to go in."""
        end = time.monotonic() + seconds
        while (found := self._left()) and time.monotonic() < end:
            time.sleep(0.05)
        return found

    def _left(self) -> list[str]:
        found = []
        for pid, words, env in _processes():
            if self._nursery(words) or self.stage.mark in env:
                found.append(f"process {pid}: {words[:80]}")
        mounts = {line for line in _mounts() if line.split()[1] not in self.mounts}
        found += [f"mount {line}" for line in mounts - self.stage.mounts]
        found += [f"folder {path}" for path in self.temporary.iterdir()]
        return found

    def scraps(self) -> list[str]:
        """Half-written files that a finished run has left."""
        return [str(p) for p in self.runs.rglob(".*") if p.name != ".lock"]


def _timeless(line: Any, runs: str) -> Any:
    if isinstance(line, dict):
        return {key: _timeless(value, runs) for key, value in line.items() if key not in TIMES}
    if isinstance(line, list):
        return [_timeless(value, runs) for value in line]
    if isinstance(line, float):
        return round(line, 3)
    return line.replace(runs, "RUNS") if isinstance(line, str) else line


def _processes() -> Iterator[tuple[int, str, str]]:
    """(number, command line, environment) of each."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                words = Path("/proc", name, "cmdline").read_bytes().replace(b"\0", b" ")
                env = Path("/proc", name, "environ").read_bytes()
                yield int(name), words.decode(errors="replace"), env.decode(errors="replace")


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().split()[3])


def _mounts() -> set[str]:
    """But not those of containers, which have labels to be known by."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return {line for line in lines if "docker" not in line}


class Stage:
    """What all jobs share: the store with the task, the student, and a mark on all that runs in a
    sandbox."""

    def __init__(self, folder: Path, model: Path | None = None) -> None:
        self.home = folder / "home"
        self.mark = f"CHAOS_MARK={uuid.uuid4().hex}"
        mark, _, value = self.mark.partition("=")
        env = {mark: value, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # it starts in half the time
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SWE_GYM_HOME", str(self.home))
            task = toy_task(self.home, files=FILES, env=env)
        splits = ["train"] * 8 + ["heldout"] * 4
        names = [(f"calc-{i}", split) for i, split in enumerate(splits)]
        tasks = folder / "tasks.jsonl"
        rows = [{**row(task, *name), "eval_script": QUIET} for name in names]
        tasks.write_text("".join(json.dumps(one) + "\n" for one in rows))
        self.overrides = [*SMALL, f"tasks.options.path={tasks}"]
        self.overrides.append(f"model.path={model or _student(folder / 'model')}")
        self.mounts = _mounts()


def _student(folder: Path) -> Path:
    """Saved by a separate process: this one need not load torch."""
    code = (
        "import sys; from tests.algorithms.conftest import tiny_model, tiny_tokenizer as t;"
        "k = t(); k.save_pretrained(sys.argv[1]);"
        "tiny_model(len(k)).save_pretrained(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, check=True)
    return folder
