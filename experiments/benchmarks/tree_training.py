"""Training on a DAgger trajectory with a label in every turn: one tree against a sample per label.

    OMP_NUM_THREADS=1 python -m experiments.benchmarks.tree_training --turns 5 10
    python -m experiments.benchmarks.tree_training --device cuda --repeats 5
    python -m experiments.benchmarks.tree_training --device cuda --length 65536 --checkpointing

Forward and backward over all labels of one trajectory, three ways: ``tree``; ``naive``, a sample
per label, one at a time; ``padded``, the same samples in batches of equal length. All three compute
logits of label tokens only and add gradients up in float32, as the learner does; it ends with an
error where the gradients differ. Observations, actions and labels are random tokens, as many as in
episodes of SmolLM2. On a CPU seconds are those of the processor, so that other work on the machine
counts little. Memory is what a step needs above the weights and the float32 sums. ``--random`` is a
model with weights by chance and needs no files.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from algorithms.engine.checkpoint import load_model
from algorithms.engine.forward import forward, use_trees
from algorithms.engine.losses import predict, weighted_sums
from algorithms.engine.models import embedded_model
from algorithms.engine.objective import Objective
from algorithms.engine.tree import TokenTree, pack

METHODS = ("tree", "naive", "padded")
OPENING, OBSERVATION, REPLY = 300, (60, 120), (30, 50)  # tokens: system and task; then per turn
LIMIT = {"float32": 1e-4, "bfloat16": 2e-1}  # gradients that differ by more are an error
VOCABULARY = 4096  # the tokens drawn; every model here has more
SIZES = {  # layers, hidden, between, heads, key-value heads, vocabulary
    "5m": (4, 256, 768, 4, 2, 4096),
    "135m": (30, 576, 1536, 9, 3, 49152),
    "1.7b": (24, 2048, 8192, 32, 32, 49152),
}


class Work(NamedTuple):
    """One trajectory: the tree of it, and its sample of every label."""

    tree: TokenTree
    chains: list[TokenTree]

    @property
    def labels(self) -> float:
        return float(self.tree.ce_weight.sum())


def trajectory(turns: int, seed: int = 0, length: int = 0) -> Work:
    """Of so many turns, or of as many as give the tree ``length`` tokens."""
    rng = random.Random(seed)
    parent: list[int] = []
    weight: list[float] = []
    labeled: list[int] = []  # the last node of each label

    def grow(tip: int, count: int, learned: float = 0.0) -> int:
        for _ in range(count):
            parent.append(tip)
            weight.append(learned)
            tip = len(parent) - 1
        return tip

    tip = grow(-1, OPENING)
    while len(labeled) < turns or len(parent) < length:
        tip = grow(tip, rng.randint(*OBSERVATION))
        labeled.append(grow(tip, rng.randint(*REPLY), 1.0))
        tip = grow(tip, rng.randint(*REPLY))
    cut = length or labeled[-1] + 1  # what was executed in the last turn teaches nothing
    ids = np.array([rng.randrange(VOCABULARY) for _ in range(cut)], dtype=np.int64)
    tree = _sample(ids, np.array(parent[:cut]), np.array(weight[:cut]))
    return Work(tree, [_chain(tree, end) for end in labeled if end < cut])


def _sample(ids: np.ndarray, parent: np.ndarray, weight: np.ndarray) -> TokenTree:
    return TokenTree(ids, parent, weight.astype(np.float32), np.zeros_like(ids))


def _chain(tree: TokenTree, end: int) -> TokenTree:
    """The path to ``end``, of which only the label at its end is learned."""
    path = []
    while end >= 0:
        path.append(end)
        end = int(tree.parent[end])
    nodes = np.array(path[::-1])
    return _sample(tree.token_ids[nodes], np.arange(len(nodes)) - 1, tree.ce_weight[nodes])


def plain(model: Any, chains: Sequence[TokenTree]) -> torch.Tensor:
    """The loss of samples side by side, with the model's own attention."""
    packed = pack(chains).to(model.device)
    sizes = torch.tensor([len(chain) for chain in chains], device=model.device)
    taken = torch.arange(int(sizes.max()), device=model.device) < sizes[:, None]
    ids = torch.zeros(taken.shape, dtype=torch.int64, device=model.device)
    ids[taken] = packed.input_ids[0]
    mask = None if len(chains) == 1 else taken.long()
    hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    predicted = predict(model.get_output_embeddings(), hidden[taken], packed)
    return weighted_sums(Objective(), predicted, packed).loss


def on_tree(model: Any, tree: TokenTree) -> torch.Tensor:
    return weighted_sums(Objective(), *forward(model, [tree])).loss


class Measured(NamedTuple):
    """Tokens that went through the model, padding included; seconds; bytes; and the loss."""

    tokens: int
    seconds: float
    memory: int
    loss: float


def measure(args: argparse.Namespace, method: str, work: Work, gradient: Path) -> Measured:
    """Run one way ``args.repeats`` times after a warm-up, and save the gradient of a step."""
    model = make_model(args)
    if method == "tree":
        use_trees(model)
    pieces, tokens = parts(args, method, model, work)
    sums = [torch.zeros_like(p, dtype=torch.float32) for p in model.parameters()]
    before, seconds = mark(args.device), []
    if args.device == "cpu":
        step(model, parts(args, method, model, trajectory(1))[0], sums)
    else:  # kernels are compiled for the length; what that takes is not the step's memory
        step(model, pieces, sums)
        before = mark(args.device)
    for _ in range(args.repeats):
        for grad in sums:
            grad.zero_()
        began = clock(args.device)
        loss = step(model, pieces, sums) / work.labels
        seconds.append(clock(args.device) - began)
    used = peak(args.device) - before
    torch.save([grad.div_(work.labels).cpu() for grad in sums], gradient)
    return Measured(tokens, statistics.median(seconds), used, loss)


def parts(
    args: argparse.Namespace, method: str, model: Any, work: Work
) -> tuple[list[Callable[[], torch.Tensor]], int]:
    """What to run, one piece after another, and the tokens of all pieces."""
    if method == "tree":
        return [partial(on_tree, model, work.tree)], len(work.tree)
    width = 1 if method == "naive" else args.batch
    groups = [work.chains[n : n + width] for n in range(0, len(work.chains), width)]
    tokens = sum(len(group) * max(map(len, group)) for group in groups)
    return [partial(plain, model, group) for group in groups], tokens


def step(model: Any, pieces: Sequence[Callable[[], torch.Tensor]], sums: list) -> float:
    """Forward and backward of every piece; gradients are added up in float32 and freed."""
    loss = 0.0
    for piece in pieces:
        found = piece()
        found.backward()
        loss += float(found.detach())
        for grad, parameter in zip(sums, model.parameters(), strict=True):
            if parameter.grad is not None:
                grad.add_(parameter.grad)
                parameter.grad = None
    return loss


def make_model(args: argparse.Namespace) -> Any:
    dtype = getattr(torch, args.dtype)
    if args.random:
        from transformers import AutoModelForCausalLM, LlamaConfig

        layers, hidden, between, heads, kv, vocabulary = SIZES[args.random]
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=between,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv,
            tie_word_embeddings=True,
            max_position_embeddings=1 << 17,
        )
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").to(dtype)
    else:
        model = load_model(args.model or embedded_model(), dtype)
    if args.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.to(args.device).train()


def clock(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def mark(device: str) -> int:
    """Bytes in use; the highest use is counted anew from here."""
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def peak(device: str) -> int:
    return _status("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated()


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def case(args: argparse.Namespace, method: str, work: Work, gradient: Path) -> Measured:
    """On a CPU in a process of its own, whose memory nothing else has touched."""
    if args.device != "cpu":
        return measure(args, method, work, gradient)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, args, method, work, gradient).result()


def distance(one: Path, other: Path) -> float:
    """||a - b|| / ||a|| over all weights."""
    pairs = zip(torch.load(one), torch.load(other), strict=True)
    squares = torch.tensor([[(a - b).square().sum(), a.square().sum()] for a, b in pairs])
    return float((squares[:, 0].sum() / squares[:, 1].sum()).sqrt())


def compare(args: argparse.Namespace, folder: Path) -> None:
    head = "turns | labels | way | tokens | x | seconds | x | memory MB | loss | gradient apart"
    print(f"| {head} |\n|{'---|' * 10}")
    worst = 0.0
    for turns in args.turns:
        work = trajectory(turns)
        first: Measured | None = None
        for method in args.methods:
            found = case(args, method, work, folder / method)
            first = first or found
            apart = distance(folder / args.methods[0], folder / method)
            worst = max(worst, apart)
            print(
                f"| {turns} | {len(work.chains)} | {method} | {found.tokens} "
                f"| {found.tokens / first.tokens:.1f} | {found.seconds:.2f} "
                f"| {found.seconds / first.seconds:.1f} | {found.memory / 1e6:.0f} "
                f"| {found.loss:.6f} | {apart:.1e} |",
                flush=True,
            )
    if not worst < LIMIT[args.dtype]:
        raise SystemExit(f"The gradients of one loss differ by {worst:.1e}: something is wrong.")


def one_long_tree(args: argparse.Namespace, folder: Path) -> None:
    work = trajectory(0, length=args.length)
    found = case(args, "tree", work, folder / "tree")
    print(
        f"One tree of {found.tokens} tokens, {len(work.chains)} labels, the longest path "
        f"{int(work.tree.depth.max()) + 1}: {found.seconds:.2f} s forward and backward, "
        f"{found.tokens / found.seconds:.0f} tokens/s, {found.memory / 1e9:.2f} GB above weights "
        f"and gradients, loss {found.loss:.4f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", help="folder of a Hugging Face model; else the embedded one")
    parser.add_argument("--random", choices=SIZES, help="a model with weights by chance")
    parser.add_argument("--turns", type=int, nargs="+", default=[5, 10, 20, 40])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--batch", type=int, default=8, help="samples in a padded batch")
    parser.add_argument("--length", type=int, default=0, help="one tree of so many tokens instead")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    gpu = args.device == "cuda"
    where = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
    what = f"random {args.random}" if args.random else args.model or "SmolLM2-135M"
    print(f"{what}, {args.dtype}, {where}, torch {torch.__version__}, {args.repeats} repeats\n")
    with tempfile.TemporaryDirectory() as folder:
        (one_long_tree if args.length else compare)(args, Path(folder))


if __name__ == "__main__":
    main()
