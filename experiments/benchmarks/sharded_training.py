"""Memory of training: one process against several that share the weights; and of the output layer.

    python -m experiments.benchmarks.sharded_training
    torchrun --standalone --nproc-per-node 2 -m experiments.benchmarks.sharded_training
    python -m experiments.benchmarks.sharded_training --head

Measured, one line per process: resident memory after the model is loaded (and sharded, if there are
several processes), its peak in two optimizer steps, and its peak while the checkpoint is written.
The model has random bfloat16 weights and float32 master weights. Compare the lines of one process
with those of two.

``--head`` measures forward and backward passes of the output layer alone: in chunks, as the learner
computes it, against all logits at once.
"""

from __future__ import annotations

import argparse
import ctypes
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from algorithms.engine import losses, parallel
from algorithms.engine.learner import Learner, TrainingConfig
from algorithms.engine.tree import TokenTree, pack

SHAPE: dict[str, Any] = {  # 294 M weights, 67 M of them in the tied embedding
    "vocab_size": 65536,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 18,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "tie_word_embeddings": True,
    "attn_implementation": "sdpa",
}


def resident(kind: str = "VmRSS") -> float:
    """Resident memory of this process in MB; ``VmHWM`` is its peak since :func:`reset_peak`."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if kind in x)
    return int(line.split()[1]) / 1024


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


class NoTokenizer:
    """Takes the place of a tokenizer, which this checkpoint does not need."""

    def save_pretrained(self, folder: str) -> None: ...


def model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    llama = LlamaForCausalLM(LlamaConfig(**SHAPE))
    torch.set_default_dtype(torch.float32)
    return llama.eval()


def chain(length: int, vocabulary: int, seed: int) -> TokenTree:
    ids = np.random.default_rng(seed).integers(0, vocabulary, length)
    weight = np.ones(length, dtype=np.float32)
    return TokenTree(ids, np.arange(length) - 1, weight, np.zeros(length, dtype=np.int64))


def training(length: int) -> None:
    parallel.initialize(cpu=True)
    base = resident()
    config = TrainingConfig(
        batch_size=4, micro_batch_tokens=length, sharding="full", checkpointing=True
    )
    learner = Learner(model(), NoTokenizer(), config)
    count = sum(p.numel() for p in learner.model.parameters())
    parallel.barrier()
    loaded = resident() - base
    reset_peak()
    trees = [chain(length, SHAPE["vocab_size"], n) for n in range(8)]
    report = learner.train(trees, lambda *_: None)
    peak = resident("VmHWM") - base
    reset_peak()
    with tempfile.TemporaryDirectory() as folder:
        learner.save(Path(folder) / "model")
    saving = resident("VmHWM") - base
    processes = torch.distributed.get_world_size() if parallel.is_distributed() else 1
    curve = ", ".join(f"{loss:.4f}" for loss in report.loss)
    print(
        f"{processes} processes, {count / 1e6:.0f} M weights: {loaded:.0f} MB with the model, peak "
        f"{peak:.0f} MB in training, {saving:.0f} MB while saving; losses {curve}; "
        f"{report.tokens_per_second:.0f} tokens/s",
        flush=True,
    )
    parallel.shut_down()


def head(pairs: int, vocabulary: int = 151936, width: int = 1024) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(width, vocabulary, bias=False).bfloat16()
    packed = pack([chain(pairs + 1, vocabulary, 0)])
    peaks = {}
    for name, chunk in (("chunks", losses.CHUNK), ("at once", 10**9)):
        losses.CHUNK, layer.weight.grad = chunk, None
        hidden = torch.randn(pairs + 1, width).bfloat16().requires_grad_()
        before = resident()
        reset_peak()
        losses.predict(layer, hidden, packed).logprobs.sum().backward()
        peaks[name] = resident("VmHWM") - before
    logits = pairs * vocabulary * 4 / 2**20
    text = ", ".join(f"{name} {value:.0f} MB" for name, value in peaks.items())
    print(f"head, {pairs} pairs, {vocabulary} tokens (float32 logits: {logits:.0f} MB): {text}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--length", type=int, default=256, help="tokens of each row")
    parser.add_argument("--head", action="store_true", help="measure the output layer alone")
    parser.add_argument("--pairs", type=int, default=3072, help="loss pairs of --head")
    options = parser.parse_args()
    # The C library keeps freed memory for reuse. With these thresholds it returns large blocks to
    # the system, so that freed memory shows as free.
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 1 << 17)
    libc.mallopt(-1, 1 << 17)
    torch.set_num_threads(1)
    head(options.pairs) if options.head else training(options.length)


if __name__ == "__main__":
    main()
