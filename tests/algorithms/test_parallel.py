"""Two processes over gloo train exactly as one process does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from algorithms.engine import parallel
from algorithms.engine.checkpoint import load_model, load_tokenizer
from algorithms.engine.examples import example_trees
from algorithms.engine.learner import Learner, TrainingConfig
from algorithms.engine.models import embedded_model
from algorithms.engine.tree import TokenTree
from algorithms.objective import Objective
from tests.algorithms.conftest import smollm2 as smollm2
from tests.algorithms.conftest import tiny_model, tiny_tokenizer
from tests.algorithms.test_identities import STREAMS, eight, examples

CASES = {
    "tokens": (Objective(), {}),
    "sequences": (Objective("sequence", 0.003, 0.004, 1.5, "jsd", denominator="sequences"), {}),
    "lora": (Objective(clip_low=None, clip_high=None), {"lora_rank": 4}),
    "sharded": (Objective(truncation=1.5), {"sharding": "full", "checkpointing": True}),
    "sharded lora": (Objective(), {"sharding": "full", "lora_rank": 4}),
}
LISTS = ("loss", "accuracy", "clipped", "divergence", "grad_norm")


def trained(folder: Path, samples, tokenizer) -> None:
    """Three optimizer batches an epoch, the last of them one tree: a process gets nothing."""
    reports = {}
    for name, (objective, options) in CASES.items():
        config = TrainingConfig(
            lr=1e-3,
            batch_size=8,
            epochs=2,
            micro_batch_tokens=100,
            warmup_steps=1,
            seed=3,
            **options,
        )
        torch.manual_seed(os.getpid())  # whatever is drawn must not come from here
        model = tiny_model(len(tokenizer))
        torch.manual_seed(os.getpid())
        learner = Learner(model, tokenizer, config, objective)
        calls: list[str] = []
        report = learner.train(samples, lambda *call, into=calls: into.append(call[2]))
        reports[name] = {
            field: getattr(report, field) for field in (*LISTS, "tokens", "label_tokens")
        }
        reports[name]["calls"] = len(calls)
        parts = [getattr(p, "_local_tensor", p) for p in learner.model.parameters()]
        reports[name]["held"] = sum(part.numel() for part in parts)
        learner.save(folder / name)
    rank = os.environ.get("RANK", "alone")
    (folder / f"{rank}.json").write_text(json.dumps(reports))


def all_trees(s, count):
    return list(example_trees(examples(s, **STREAMS["all"]) * 3, s.renderer))[:count]


def main(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    trained(folder, all_trees(eight(tokenizer), 17), tokenizer)


def in_two(script: Path, code: str) -> None:
    """Runs ``code`` in two processes that find each other over gloo."""
    script.write_text(code)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*launch, str(script)], env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.e2e
def test_two_processes_equal_one(tmp_path, tokenizer):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    code = f"import pathlib, {__name__} as t; t.main(pathlib.Path({str(two)!r}))"
    in_two(tmp_path / "train.py", code)
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
        held = first[name]["held"], second[name]["held"]
        if "sharded" in name:
            assert sum(held) == alone[name]["held"] and max(held) < 0.6 * sum(held)
        else:
            assert held == (alone[name]["held"],) * 2
        assert (alone[name]["calls"], first[name]["calls"], second[name]["calls"]) == (6, 6, 0)
        wanted = load_model(one / name, torch.float32).state_dict()
        found = load_model(two / name, torch.float32).state_dict()
        for key, weight in wanted.items():
            far = (found[key] - weight).abs() > 1e-3 / 100
            assert far.float().mean() < 1e-3, key


def embedded(folder: Path, dtype: str) -> None:
    """Two steps of the embedded model: tied embeddings, layers computed again; in bfloat16 where
    the machine is made for it."""
    path = embedded_model()
    config = TrainingConfig(
        lr=1e-4,
        batch_size=3,
        micro_batch_tokens=96,
        warmup_steps=1,
        sharding="full",
        checkpointing=True,
    )
    learner = Learner(load_model(path, getattr(torch, dtype)), load_tokenizer(path), config)
    report = learner.train([chain(64, seed) for seed in range(6)])
    learner.save(folder / "model")
    if parallel.is_main():
        (folder / "report.json").write_text(json.dumps([report.loss, report.grad_norm]))


def chain(length: int, seed: int) -> TokenTree:
    ids = np.random.default_rng(seed).integers(1000, 2000, length)
    line = np.arange(length)
    return TokenTree(ids, line - 1, (line > 30).astype(np.float32), np.zeros(length, np.int64))


@pytest.mark.e2e
def test_sharded_embedded_model_equals_unsharded(tmp_path: Path, auto_dtype: torch.dtype) -> None:
    name = str(auto_dtype).removeprefix("torch.")
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    in_two(
        tmp_path / "t.py",
        f"import pathlib, {__name__} as t; t.embedded(pathlib.Path({str(two)!r}), {name!r})",
    )
    embedded(one, name)
    (wanted, norms), (found, found_norms) = (
        json.loads((folder / "report.json").read_text()) for folder in (one, two)
    )
    assert found == pytest.approx(wanted, rel=1e-3) and wanted[1] < wanted[0]
    assert found_norms == pytest.approx(norms, rel=2e-2), "gradients, added up in another order"
    plain = load_model(one / "model", "auto").state_dict()  # as they were saved
    for key, weight in load_model(two / "model", "auto").state_dict().items():
        assert weight.dtype == auto_dtype
        assert torch.allclose(weight.float(), plain[key].float(), rtol=1e-2, atol=4e-4), key
    files = [(folder / "model/model.safetensors").stat().st_size for folder in (one, two)]
    assert files[0] == pytest.approx(files[1], rel=1e-3), "the tied head is not written twice"
