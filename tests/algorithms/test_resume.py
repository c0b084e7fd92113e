"""A training run that was killed continues as if it had not been, on any number of processes."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from algorithms.engine import parallel, resume
from algorithms.engine.checkpoint import load_model
from algorithms.engine.learner import Learner, TrainingConfig
from algorithms.objective import Objective
from tests.algorithms.conftest import tiny_model, tiny_tokenizer
from tests.algorithms.test_identities import eight
from tests.algorithms.test_parallel import all_trees

CONFIG = TrainingConfig(
    lr=1e-3,
    lr_end=1.0,
    batch_size=8,
    epochs=2,
    micro_batch_tokens=100,
    warmup_steps=1,
    save_every=2,
)
KILLED_IN_STEP = 5  # of 6 steps; the last snapshot is of step 4
RTOL = 2e-4  # of losses; weights may differ by a hundredth of the learning rate
SNAPSHOT = "snapshot"


class KilledError(Exception):
    pass


def train(folder: Path, options: dict, dtype: str, killed: bool) -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_model(len(tokenizer)).to(getattr(torch, dtype))
    config = dataclasses.replace(CONFIG, **options)
    learner = Learner(model, tokenizer, config, Objective(truncation=1.5))
    steps = 0

    def watch(*_: object) -> None:
        nonlocal steps
        steps += 1
        if killed and steps == KILLED_IN_STEP:
            raise KilledError

    trees = all_trees(eight(tokenizer), 17)
    report = learner.train(trees, watch, folder / SNAPSHOT)
    learner.save(folder / "model")
    if parallel.is_main():
        content = dataclasses.asdict(report) | {"steps_here": steps}
        (folder / "report.json").write_text(json.dumps(content))


def main(folder: str, options: str, dtype: str, killed: str) -> None:
    try:
        train(Path(folder), json.loads(options), dtype, killed == "yes")
    except KilledError:
        os._exit(9)


def train_in(count: int, folder: Path, options: dict, dtype: str = "float32", killed=False) -> None:
    """Train in ``count`` processes. If ``killed``, they exit abruptly in the fifth step."""
    folder.mkdir(exist_ok=True)
    if count == 1:
        try:
            train(folder, options, dtype, killed)
        except KilledError:
            assert killed
        return
    arguments = (str(folder), json.dumps(options), dtype, "yes" if killed else "no")
    script = folder / "train.py"
    script.write_text(f"import {__name__} as t; t.main(*{arguments!r})")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launch, f"--nproc-per-node={count}", str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert (done.returncode != 0) == killed, done.stderr[-3000:]


def assert_same(resumed: Path, uninterrupted: Path) -> None:
    """Equal losses and weights, except for rounding."""
    folders = (resumed, uninterrupted)
    (report, expected) = (json.loads((f / "report.json").read_text()) for f in folders)
    assert len(report["loss"]) == 6
    for name in ("loss", "grad_norm", "clipped", "accuracy"):
        assert report[name] == pytest.approx(expected[name], rel=RTOL, abs=1e-6), name
    weights = load_model(uninterrupted / "model", torch.float32).state_dict()
    for key, weight in load_model(resumed / "model", torch.float32).state_dict().items():
        far = (weights[key] - weight).abs() > CONFIG.lr / 100
        assert far.float().mean() < 1e-3, key


SHARDED = {"sharding": "full", "checkpointing": True}


@pytest.mark.slow
@pytest.mark.parametrize("state_file", [resume.STATE_FILE, resume.OLD_STATE_FILE])
def test_killed_training_resumes_with_same_losses(tmp_path: Path, state_file: str) -> None:
    train_in(1, tmp_path / "whole", {}, "bfloat16")
    train_in(1, tmp_path / "cut", {}, "bfloat16", killed=True)
    snapshot = tmp_path / "cut" / SNAPSHOT
    (snapshot / "trainer_state.json").rename(snapshot / state_file)  # the name in older snapshots
    train_in(1, tmp_path / "cut", {}, "bfloat16")
    assert_same(tmp_path / "cut", tmp_path / "whole")
    report = json.loads((tmp_path / "cut" / "report.json").read_text())
    assert report["steps_here"] == 2, "the snapshot has four of six steps"


@pytest.mark.e2e
@pytest.mark.parametrize("options", [SHARDED, {**SHARDED, "lora_rank": 4}], ids=["full", "lora"])
def test_snapshot_of_two_processes_resumes_in_one_and_back(tmp_path: Path, options: dict) -> None:
    train_in(1, tmp_path / "whole", options)
    for name, before, after in (("from two", 2, 1), ("from one", 1, 2)):
        train_in(before, tmp_path / name, options, killed=True)
        assert (tmp_path / name / SNAPSHOT / "trainer_state.json").is_file()
        assert not (tmp_path / name / "model").exists()
        train_in(after, tmp_path / name, options)
        assert_same(tmp_path / name, tmp_path / "whole")
        report = json.loads((tmp_path / name / "report.json").read_text())
        assert report["steps_here"] == 2
