"""A training that is killed goes on as if it had not been, on any number of processes."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from algorithms.engine import parallel
from algorithms.engine.checkpoint import load_model
from algorithms.engine.learner import Learner, TrainingConfig
from algorithms.engine.objective import Objective
from tests.algorithms.conftest import tiny_model, tiny_tokenizer
from tests.algorithms.test_identities import eight
from tests.algorithms.test_parallel import all_trees

CONFIG = TrainingConfig(lr=1e-3, epochs=2, micro_batch_tokens=100, warmup_steps=1, save_every=2)
KILLED_IN = 5  # of 6 steps; the last that was kept is 4
RTOL = 2e-4  # of losses; weights may differ by a hundredth of the learning rate


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
        if killed and steps == KILLED_IN:
            raise KilledError

    samples = all_trees(eight(tokenizer), 17)
    report = learner.train(samples, watch, folder / "kept")
    learner.save(folder / "model")
    if parallel.is_main():
        told = dataclasses.asdict(report) | {"steps_here": steps}
        (folder / "report.json").write_text(json.dumps(told))


def main(folder: str, options: str, dtype: str, killed: str) -> None:
    try:
        train(Path(folder), json.loads(options), dtype, killed == "yes")
    except KilledError:
        os._exit(9)


def many(count: int, folder: Path, options: dict, dtype: str = "float32", killed=False) -> None:
    """In ``count`` processes; what is ``killed`` ends without a word in its fifth step."""
    folder.mkdir(exist_ok=True)
    if count == 1:
        try:
            train(folder, options, dtype, killed)
        except KilledError:
            assert killed
        return
    words = (str(folder), json.dumps(options), dtype, "yes" if killed else "no")
    script = folder / "train.py"
    script.write_text(f"import {__name__} as t; t.main(*{words!r})")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launch, f"--nproc-per-node={count}", str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert (done.returncode != 0) == killed, done.stderr[-3000:]


def same(found: Path, wanted: Path) -> None:
    """All but the last digits, in losses and in weights."""
    (one, other) = (json.loads((f / "report.json").read_text()) for f in (found, wanted))
    assert len(one["loss"]) == 6
    for name in ("loss", "grad_norm", "clipped", "accuracy"):
        assert one[name] == pytest.approx(other[name], rel=RTOL, abs=1e-6), name
    weights = load_model(wanted / "model", torch.float32).state_dict()
    for key, weight in load_model(found / "model", torch.float32).state_dict().items():
        far = (weights[key] - weight).abs() > CONFIG.lr / 100
        assert far.float().mean() < 1e-3, key


SHARDED = {"sharding": "full", "checkpointing": True}


def test_saved_on_one_process_it_goes_on_with_the_same_losses(tmp_path: Path) -> None:
    many(1, tmp_path / "whole", {}, "bfloat16")
    many(1, tmp_path / "cut", {}, "bfloat16", killed=True)
    many(1, tmp_path / "cut", {}, "bfloat16")
    same(tmp_path / "cut", tmp_path / "whole")
    told = json.loads((tmp_path / "cut" / "report.json").read_text())
    assert told["steps_here"] == 2, "four of six steps were kept"


@pytest.mark.e2e
@pytest.mark.parametrize("options", [SHARDED, {**SHARDED, "lora_rank": 4}], ids=["full", "lora"])
def test_saved_on_two_it_goes_on_on_one_and_back(tmp_path: Path, options: dict) -> None:
    many(1, tmp_path / "whole", options)
    for name, before, after in (("from two", 2, 1), ("from one", 1, 2)):
        many(before, tmp_path / name, options, killed=True)
        assert (tmp_path / name / "kept" / "told.json").is_file()
        assert not (tmp_path / name / "model").exists()
        many(after, tmp_path / name, options)
        same(tmp_path / name, tmp_path / "whole")
        told = json.loads((tmp_path / name / "report.json").read_text())
        assert told["steps_here"] == 2
