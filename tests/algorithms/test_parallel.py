"""Two processes over gloo descend exactly what one descends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from algorithms.engine.checkpoint import load_model
from algorithms.engine.learner import Learner, TrainingConfig
from algorithms.engine.lessons import lesson_trees
from algorithms.engine.objective import Objective
from tests.algorithms.conftest import tiny_model, tiny_tokenizer
from tests.algorithms.test_identities import STREAMS, eight, lessons

CASES = {
    "tokens": (Objective(), {}),
    "sequences": (Objective("sequence", 0.003, 0.004, 1.5, "jsd", denominator="sequences"), {}),
    "lora": (Objective(clip_low=None, clip_high=None), {"lora_rank": 4}),
    "sharded": (Objective(truncation=1.5), {"sharding": "full", "checkpointing": True}),
    "sharded lora": (Objective(), {"sharding": "full", "lora_rank": 4}),
}
LISTS = ("loss", "accuracy", "clipped", "divergence", "grad_norm")


def trained(folder: Path, samples, tokenizer) -> None:
    """Three optimiser batches an epoch, the last of them one tree: a process gets nothing."""
    told = {}
    for name, (objective, options) in CASES.items():
        config = TrainingConfig(
            lr=1e-3, epochs=2, micro_batch_tokens=100, warmup_steps=1, seed=3, **options
        )
        torch.manual_seed(os.getpid())  # whatever is drawn must not come from here
        model = tiny_model(len(tokenizer))
        torch.manual_seed(os.getpid())
        learner = Learner(model, tokenizer, config, objective)
        calls: list[str] = []
        report = learner.train(samples, lambda *call, into=calls: into.append(call[2]))
        learner.save(folder / name)
        told[name] = {field: getattr(report, field) for field in (*LISTS, "tokens", "label_tokens")}
        told[name]["calls"] = len(calls)
    rank = os.environ.get("RANK", "alone")
    (folder / f"{rank}.json").write_text(json.dumps(told))


def all_trees(s, count):
    return list(lesson_trees(lessons(s, **STREAMS["all"]) * 3, s.renderer))[:count]


def main(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    trained(folder, all_trees(eight(tokenizer), 17), tokenizer)


def test_two_processes_are_one(tmp_path, tokenizer):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    code = f"import pathlib, {__name__} as t; t.main(pathlib.Path({str(two)!r}))"
    script = tmp_path / "train.py"
    script.write_text(code)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*launch, str(script)], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    trained(one, all_trees(eight(tokenizer), 17), tokenizer)
    alone, first, second = (
        json.loads(path.read_text())
        for path in (one / "alone.json", two / "0.json", two / "1.json")
    )
    for name in CASES:
        for field in LISTS:
            assert first[name][field] == second[name][field]
            assert first[name][field] == pytest.approx(alone[name][field], rel=2e-4, abs=1e-6)
        assert first[name]["tokens"] == alone[name]["tokens"]
        assert (alone[name]["calls"], first[name]["calls"], second[name]["calls"]) == (6, 6, 0)
        wanted = load_model(one / name, torch.float32).state_dict()
        found = load_model(two / name, torch.float32).state_dict()
        for key, weight in wanted.items():
            far = (found[key] - weight).abs() > 1e-3 / 100
            assert far.float().mean() < 1e-3, key
