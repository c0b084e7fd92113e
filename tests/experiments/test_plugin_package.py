"""A package of somebody else, installed by pip and used by a whole run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.experiments.conftest import Job

SOURCE = Path(__file__).parents[1] / "plugin_package"
PLUGINS = (
    "hydra.searchpath=[pkg://sample_plugin.conf]",
    "algorithm=outcome_weighted",
    "tasks=sample",
    "sandbox=sample",
    "actions=run_tag",
    "teacher=one_command",
)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pip has put it; child processes find it there."""
    site, source = tmp_path / "site", tmp_path / "source"
    shutil.copytree(SOURCE, source)  # the build writes beside its sources
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    command = [*pip, "--no-build-isolation", "--target", str(site), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=":")
    return site


def own_tasks(job: Job) -> Job:
    """Without the tasks and the sandbox that the job has otherwise."""
    kept = (o for o in job.overrides if not o.startswith(("tasks=", "sandbox=")))
    return Job(job.home, job.runs, tuple(kept))


@pytest.mark.timeout(900)
def test_run_with_parts_of_another_package(job: Job, installed: Path) -> None:
    job = own_tasks(job)
    few = ("evaluation.tasks=1", "evaluation.untrained=false")
    job.run(*PLUGINS, *few, new_interpreter=True)  # which reads PYTHONPATH
    folder = job.folder("outcome_weighted-*")
    path = folder / "rounds/round_001"
    episodes = [json.loads(line) for line in (path / "episodes.jsonl").read_text().splitlines()]
    assert len(episodes) == 3
    turns = [turn for episode in episodes for turn in episode["turns"]]
    assert all(e["turns"][0]["observation"].count("Only one line is wrong.") for e in episodes)
    taught = [turn for turn in turns if turn["actor"] == "teacher"]
    assert taught and all(turn["text"].startswith("<run>") for turn in taught)
    labels = [json.loads(line) for line in (path / "annotations.jsonl").read_text().splitlines()]
    assert {label["annotator"] for label in labels} == {"one_command"}
    assert len(labels) == len(turns)
    first = (folder / "rounds/round_000/episodes.jsonl").read_text().splitlines()
    assert all(json.loads(line)["outcome"]["status"] == "resolved" for line in first)
    assert json.loads((path / "metrics.json").read_text())["losses"]
    assert "outcome_weighted" in (folder / "report.html").read_text()
    # what it was trained on, for other trainers
    rows = folder / "rows.jsonl"
    words, by_hand = (str(folder), "1", "--out", str(rows)), Job(job.home, job.runs, ())
    by_hand.run(*words, module="experiments.export", new_interpreter=True)
    weights = {w for line in rows.read_text().splitlines() for w in json.loads(line)["weights"]}
    assert weights - {0.0, 0.25, 1.0} == set() and weights & {0.25, 1.0}
