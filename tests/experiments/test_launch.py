"""Training in a process of its own: as in the run's, stopped with it, and by hand."""

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


def test_a_process_of_its_own_trains_as_the_run_does(job: Job) -> None:
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
