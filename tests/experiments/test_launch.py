"""Training in a separate process: same result as in the run, stopped with it, and by hand."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.experiments.conftest import Job

TWO = "training.launch=[torchrun,--standalone,--nproc-per-node,'2']"


def metrics(folder: Path, index: int) -> dict:  # type: ignore[type-arg]
    return json.loads((folder / "rounds" / f"round_{index:03d}" / "metrics.json").read_text())


@pytest.mark.timeout(900)
def test_separate_process_trains_as_the_run_does(job: Job) -> None:
    job.run("evaluation.tasks=1")
    folder = job.folder()
    before = metrics(folder, 1)
    trained = folder / "rounds/round_001/checkpoint"
    weights = (trained / "model.safetensors").read_bytes()
    shutil.rmtree(trained)  # by hand: the stored round again
    command = (str(folder), "1")
    printed = job.by_hand("experiments.train", *command)
    assert "round 1: train" in printed and f"checkpoint: {trained}" in printed
    assert (trained / "model.safetensors").read_bytes() == weights
    assert metrics(folder, 1)["losses"] == before["losses"]
    assert "already trained" in job.by_hand("experiments.train", *command)
    assert "give the number" in job.by_hand("experiments.train", str(folder), "x", code=2)
    assert "no round" in job.by_hand("experiments.train", str(folder), "7", code=2)


@pytest.mark.timeout(900)
def test_rounds_collected_ahead_are_the_same_after_a_kill(job: Job) -> None:
    """Two processes train round 1 while its successor is collected by the student of round 0."""
    overlap = (TWO, "overlap=1", "rounds=2", "evaluation.tasks=1")
    printed = job.run(*overlap)
    assert "round 2 is played by the student of round 0" in printed
    folder = job.folder()
    measured = [metrics(folder, index) for index in (1, 2)]
    assert [(one["policy_version"], one["staleness"]) for one in measured] == [(0, 0), (0, 1)]
    wanted = {path: turns(folder / path) for path in EPISODES}
    losses = [one["losses"] for one in measured]
    shutil.rmtree(folder)
    ahead = "dagger-*/rounds/round_002/episodes.jsonl"
    job.interrupted(ahead, 1, signal.SIGKILL, *overlap, within=600)
    time.sleep(2)
    assert not trainings(job.runs), "the training dies with its run"
    job.run("training.launch=[python]", *overlap[1:])  # another number of processes: the same run
    assert {path: turns(folder / path) for path in EPISODES} == wanted
    again = [metrics(folder, index)["losses"] for index in (1, 2)]
    # what the agent saw has the seconds in it that its tests took
    assert again == [pytest.approx(one, rel=1e-2) for one in losses]


EPISODES = tuple(f"rounds/round_00{index}/episodes.jsonl" for index in (1, 2))


def turns(path: Path) -> dict[str, list[str]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found = {row["episode_id"]: [turn["text"] for turn in row["turns"]] for row in rows}
    assert len(found) == len(rows), "none twice"
    return found


def trainings(runs: Path) -> list[str]:
    """Command lines of processes that train for a run in ``runs``."""
    found = []
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = one.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "experiments.train" in words and any(str(runs) in word for word in words):
            found.append(" ".join(words))
    return found


def test_what_cannot_be_launched_ends_in_one_message(job: Job) -> None:
    printed = job.run("overlap=1", code=2)
    assert "training.launch" in printed and "Traceback" not in printed
    printed = job.run("training.launch=[no-such-launcher]", "evaluation.tasks=1", code=2)
    assert "no-such-launcher cannot be started" in printed and "Traceback" not in printed
    broken = "training.launch=[sh,-c,'echo the cluster is full; exit 7']"
    printed = job.run(broken, "evaluation.tasks=1", code=2)
    assert "code 7" in printed and "the cluster is full" in printed
    assert not printed.count("Traceback")
    os.environ["WORLD_SIZE"] = "2"
    try:
        assert "nproc-per-node,'2'" in job.run(code=2)
    finally:
        del os.environ["WORLD_SIZE"]


@pytest.mark.timeout(900)
def test_ctrl_c_stops_the_training_too(job: Job) -> None:
    started = "iteration0-*/rounds/round_000/train.log"
    printed = job.interrupted(started, 1, signal.SIGINT, TWO, "evaluation.tasks=1", within=600)
    assert "go on with: python -m experiments.run" in printed and "Traceback" not in printed
    assert not trainings(job.runs)
