"""Sweeps on runs that take seconds: what breaks, what is killed, and each of Hydra's launchers, as
docs/guides/scale.md has them."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.experiments.conftest import ROOT, Job

TINY = (
    "evaluation.tasks=1",
    "iteration0.episodes=2",
    "episodes_per_round=2",
    "limits.max_turns=3",
)
SETTINGS = ("opd iteration0.lr=0.0003", "sft iteration0.lr=0.0003", "sft iteration0.lr=0.0002")
# A fault of ours in the midst of a cell: no value that can be given has one that we know of
FAULT = """
from algorithms.engine.learner import Learner

made = Learner.__init__

def make(self, model, tokenizer, config, *rest):
    made(self, model, tokenizer, config, *rest)
    config.lr + (None if config.lr == 0.0003 else 0)

Learner.__init__ = make
"""
PAGE = (ROOT / "docs" / "guides" / "scale.md").read_text()


def example(launcher: str) -> list[str]:
    """The arguments of the page's example."""
    (line,) = re.findall(rf"experiments\.run -m (hydra/launcher={launcher} .*)", PAGE)
    return line.split()


def cells(job: Job) -> dict[str, dict[str, Any]]:
    """Of the newest sweep, by the overrides that ``TINY`` and the job do not fix."""
    file = max(job.runs.glob("sweep-*/sweep.json"), key=lambda path: path.stat().st_mtime)
    reported = json.loads(file.read_text())
    fixed = {*job.overrides, *TINY}
    return {" ".join(o for o in c["overrides"] if o not in fixed): c for c in reported["cells"]}


def test_what_breaks_stops_no_other_cell_and_what_is_finished_is_not_touched(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # opd is refused; one of the rates breaks in the midst of a cell
    (tmp_path / "fault").mkdir()
    (tmp_path / "fault" / "sitecustomize.py").write_text(FAULT)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'fault'}{os.pathsep}{ROOT}")
    rates = "iteration0.lr=0.0003,0.0002"
    output = job.run(
        "algorithm=opd,sft", rates, "beta=linear,step", *TINY, "-m", code=1, new_interpreter=True
    )
    found = cells(job)
    assert {name: cell["status"] for name, cell in found.items()} == {
        "algorithm=opd iteration0.lr=0.0003 beta=linear": "failed",
        "algorithm=opd iteration0.lr=0.0002 beta=linear": "failed",
        "algorithm=sft iteration0.lr=0.0003 beta=linear": "failed",
        "algorithm=sft iteration0.lr=0.0002 beta=linear": "finished",
    }, "neither method has a beta: eight settings, four runs"
    refused, broken, good = (found[f"algorithm={n} beta=linear"] for n in SETTINGS)
    assert "needs the teacher's log-probs" in refused["error"]
    assert broken["error"].startswith("TypeError")
    claim = json.loads((job.runs / good["run"] / "summary.json").read_text())
    last = claim["evaluations"][-1]
    reported = f"finished  {last['resolved']} of 1, {last['rate']:.1%} ({last['low']:.1%} to"
    closing = output.split("\n\n")[-1]
    assert reported in closing and good["run"] in closing and "algorithm=sft iter" in closing
    assert "compare: python -m experiments.report" in closing and "go on:" in closing
    assert output.count("Traceback") == 1 and "TypeError" in closing

    # All of it again, where importing torch would be seen
    (tmp_path / "torch.py").write_text("raise RuntimeError('imported')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    again = job.run("algorithm=sft", "beta=linear,step", *TINY, "-m", new_interpreter=True)
    assert reported in again and "go on:" not in again and "cell 1" not in again
    assert [cell["run"] for cell in cells(job).values()] == [good["run"]]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_sweep_goes_on_with_the_same_command(job: Job, how: signal.Signals) -> None:
    sweep = ("algorithm=sft,dagger", "seed=0", *TINY, "-m")
    output = job.interrupted("dagger-*/rounds/round_001/episodes.jsonl", 1, how, *sweep)
    before = {name: cell["status"] for name, cell in cells(job).items()}
    left = "running" if how == signal.SIGKILL else "waiting"
    assert before == {"algorithm=sft seed=0": "finished", "algorithm=dagger seed=0": left}
    if how == signal.SIGINT:
        assert "Stopped. What is done is kept" in output and "Traceback" not in output
        assert re.search("waiting +.*algorithm=dagger", output)
    kept = (job.folder("dagger-*") / "rounds/round_001/episodes.jsonl").read_text().splitlines()[0]
    again = job.run(*sweep)
    assert {cell["status"] for cell in cells(job).values()} == {"finished"}
    assert "cell 1 of 2" not in again and "cell 2 of 2: algorithm=dagger" in again
    episodes = (job.folder("dagger-*") / "rounds/round_001/episodes.jsonl").read_text()
    assert kept in episodes and len(episodes.splitlines()) == 2


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("launcher", "methods"),
    [("joblib", ["sft", "dagger"]), ("submitit_local", ["sft"]), ("ray", ["sft"])],
)
def test_a_broken_cell_of_a_sweep_stops_no_other(
    job: Job, launcher: str, methods: list[str]
) -> None:
    words = example(launcher)
    words.remove("algorithm=sft,dagger")
    swept = ",".join(["opd", *methods])  # opd wants log-probs, which the expert does not give
    output = job.run(*words, f"algorithm={swept}", *TINY, "-m", code=1)
    assert "algorithm=opd needs the teacher's log-probs" in output
    assert "Traceback" not in output and "there is no" not in output
    for method in methods:
        claim = json.loads((job.folder(f"{method}-*") / "summary.json").read_text())
        assert claim["evaluations"][-1]["name"] == "round_001"
    assert len(list(job.runs.glob("iteration0-*"))) == 1, "made once: the others waited for it"
    assert not list(job.runs.glob("opd-*"))
    found = {name.split()[0]: cell["status"] for name, cell in cells(job).items()}
    assert found == {"algorithm=opd": "failed"} | {f"algorithm={m}": "finished" for m in methods}
    assert output.count("\nfinished ") == len(methods) and output.count("\nfailed ") == 1
